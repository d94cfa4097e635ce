"""The ways in which a destination can be bad, as values: what `tests.support.misbehaving.Destination` is told."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum, auto

IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
#: Result, source and reason of a refusal (PS3.8 table 9-21): called AE title not recognised; local limit exceeded.
PERMANENT, TRANSIENT = (1, 1, 7), (2, 3, 2)


class When(Enum):
    """When a fault strikes. N is its `after`; objects are counted in each association by itself."""

    CONNECTED = auto()  #: Before a byte of the request for the association is read (with TLS: after the handshake).
    REQUESTED = auto()  #: In place of the answer to that request.
    BETWEEN = auto()  #: After the answer to object N; with N = 0 after the association was accepted.
    COMMAND = auto()  #: After the C-STORE-RQ of object N + 1, before its dataset.
    DATASET = auto()  #: In the middle of the dataset of object N + 1.
    WHOLE = auto()  #: After the dataset of object N + 1, in place of its answer; it counts as received whole.
    RELEASE = auto()  #: In place of the answer to A-RELEASE-RQ.


class Do(Enum):
    """What strikes."""

    HANG = auto()  #: Reads nothing and says nothing any more; the connection stays as long as the destination.
    IGNORE = auto()  #: Reads and records what comes, and says nothing any more.
    ABORT = auto()  #: Says A-ABORT.
    CLOSE = auto()  #: Closes the connection without a word.
    RESET = auto()  #: Resets the connection (RST).
    GARBAGE = auto()  #: Says what is no DICOM, then nothing any more.
    RELEASE = auto()  #: Says A-RELEASE-RQ; what crosses it is recorded and not answered.


@dataclass(frozen=True)
class Fault:
    """One fault.

    Attributes
    ----------
    after
        Objects of the same association that go well before.
    times
        How many associations it strikes: the first ones that come so far. All others go well. None: every one.
    """

    do: Do
    when: When
    after: int = 0
    times: int | None = None


class Answers(Enum):
    """How C-STORE-RQs are answered."""

    RIGHT = auto()
    WRONG_ID = auto()  #: As if to the request with the next message id.
    OTHER_COMMAND = auto()  #: With a C-ECHO-RSP.
    EARLY = auto()  #: After the C-STORE-RQ, before its dataset.
    REVERSED = auto()  #: When the window is full, or nothing more comes for a while: all at once, the last one first.


#: Status for the n-th object (from 1, of all that came whole in all associations) with this SOP Instance UID.
Status = Callable[[int, str], int]


def always(status: int) -> Status:
    """Answer all objects with it."""
    return lambda _number, _uid: status


def first(count: int, status: int) -> Status:
    """Answer the first ones with it, and all others with success."""
    return lambda number, _uid: status if number <= count else 0x0000


def only(sop_uid: str, status: int) -> Status:
    """Answer one instance with it, and all others with success."""
    return lambda _number, uid: status if uid == sop_uid else 0x0000


GOOD = always(0x0000)


@dataclass(frozen=True)
class Behaviour:
    """What a destination does. Each field by itself is one way of being bad; as it stands it is good.

    Attributes
    ----------
    syntaxes
        Transfer syntaxes that it takes; None: any; (): none, so that it accepts no presentation context.
    max_pdu
        Longest P-DATA-TF that it takes, in bytes after the header; 0: any.
    window
        Operations at a time that it grants to who asks for more than one (PS3.7 section D.3.3.3); 0: any number.
    window_breaks
        It closes the connection at the first C-STORE-RQ of who asked for a window, as some products do.
    rejection
        It rejects associations, with result, source and reason (PS3.8 table 9-21): `PERMANENT`, `TRANSIENT`.
    byte_by_byte
        Each byte that it says goes out by itself.
    """

    fault: Fault | None = None
    status: Status = GOOD
    answers: Answers = Answers.RIGHT
    syntaxes: tuple[str, ...] | None = None
    max_pdu: int = 16384
    window: int = 1
    window_breaks: bool = False
    rejection: tuple[int, int, int] | None = None
    byte_by_byte: bool = False


#: One of each kind. Nothing of the first group is ever confirmed; with the second everything can be, sooner or later.
NEVER: Mapping[str, Behaviour] = {
    "accepts the connection and hangs": Behaviour(Fault(Do.HANG, When.CONNECTED)),
    "never answers the request for an association": Behaviour(Fault(Do.IGNORE, When.REQUESTED)),
    "answers that request with garbage": Behaviour(Fault(Do.GARBAGE, When.REQUESTED)),
    "never answers a C-STORE": Behaviour(Fault(Do.IGNORE, When.WHOLE)),
    "stops reading in the middle of a dataset": Behaviour(Fault(Do.HANG, When.DATASET)),
    "resets in the middle of a dataset": Behaviour(Fault(Do.RESET, When.DATASET)),
    "aborts in the middle of a dataset": Behaviour(Fault(Do.ABORT, When.DATASET)),
    "closes in place of an answer": Behaviour(Fault(Do.CLOSE, When.WHOLE)),
    "answers with garbage": Behaviour(Fault(Do.GARBAGE, When.WHOLE)),
    "aborts once accepted": Behaviour(Fault(Do.ABORT, When.BETWEEN)),
    "out of resources (A700)": Behaviour(status=always(0xA700)),
    "does not match its SOP class (A900)": Behaviour(status=always(0xA900)),
    "cannot understand (C000)": Behaviour(status=always(0xC000)),
    "answers with the wrong message id": Behaviour(answers=Answers.WRONG_ID),
    "answers another command": Behaviour(answers=Answers.OTHER_COMMAND),
    "accepts no presentation context": Behaviour(syntaxes=()),
    "rejects for good": Behaviour(rejection=PERMANENT),
    "rejects for now": Behaviour(rejection=TRANSIENT),
}
SOONER_OR_LATER: Mapping[str, Behaviour] = {
    "out of resources for three objects": Behaviour(status=first(3, 0xA700)),
    "warns (B000)": Behaviour(status=always(0xB000)),
    "aborts after two objects": Behaviour(Fault(Do.ABORT, When.BETWEEN, after=2)),
    "closes after two objects": Behaviour(Fault(Do.CLOSE, When.BETWEEN, after=2)),
    "resets in the third dataset": Behaviour(Fault(Do.RESET, When.DATASET, after=2)),
    "closes in place of the third answer": Behaviour(Fault(Do.CLOSE, When.WHOLE, after=2)),
    "hangs in the first dataset of one association": Behaviour(Fault(Do.HANG, When.DATASET, times=1)),
    "releases after two objects": Behaviour(Fault(Do.RELEASE, When.BETWEEN, after=2)),
    "never answers a release": Behaviour(Fault(Do.IGNORE, When.RELEASE)),
    "takes implicit little endian only": Behaviour(syntaxes=(IMPLICIT_LITTLE_ENDIAN,)),
    "takes tiny PDUs only": Behaviour(max_pdu=128),
    "takes PDUs of any length": Behaviour(max_pdu=0),
    "grants a window and answers the last first": Behaviour(window=4, answers=Answers.REVERSED),
    "breaks with who asks for a window": Behaviour(window_breaks=True),
    "answers before the dataset": Behaviour(answers=Answers.EARLY),
    "answers byte by byte": Behaviour(byte_by_byte=True),
}
