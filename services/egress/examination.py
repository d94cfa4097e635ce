"""What a destination can do, found out by asking it: C-ECHO, negotiation, and an object if that is wanted."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from libs.dimse import command as commands
from libs.dimse import query
from libs.dimse.connection import LostError, StoppedError, TimedOutError
from libs.dimse.pdu import MalformedError
from libs.dimse.requestor import AbortedError, Association, ReleasedError
from services.egress.calling import MAX_CONTEXTS, EndError, Timeouts, connect
from services.egress.outcome import Outcome, of_status
from services.egress.reach import Target
from services.egress.specimen import SECONDARY_CAPTURE, Specimen

Pair = tuple[str, str]

#: PS3.6 table A-1; what most archives and workstations are asked for.
STORAGE_CLASSES: Final = tuple(
    f"1.2.840.10008.5.1.4.1.1.{leaf}"
    for leaf in (
        *("1", "1.1", "1.1.1", "1.2", "1.2.1", "1.3", "1.3.1", "1.4"),  # CR, DX, MG, IO
        *("2", "2.1", "4", "4.1", "4.2"),  # CT, MR, spectroscopy
        *("3.1", "6.1", "6.2"),  # US
        *("7", "7.1", "7.2", "7.3", "7.4"),  # secondary capture
        *("12.1", "12.1.1", "12.2", "12.2.1", "13.1.1", "13.1.3"),  # XA, XRF, tomosynthesis
        *("20", "128", "130"),  # NM, PET
        *("9.1.1", "9.1.2", "9.1.3"),  # ECG
        *("11.1", "88.11", "88.22", "88.33", "88.34", "88.59", "88.67"),  # presentation states, reports
        *("66", "66.1", "66.4", "66.5"),  # raw, registration, segmentation
        *("77.1.1", "77.1.2", "77.1.4", "77.1.5.1", "77.1.5.4", "77.1.6"),  # visible light
        *("104.1", "104.2"),  # PDF, CDA
        *("481.1", "481.2", "481.3", "481.5", "481.8"),  # radiotherapy
    )
)
IMPLICIT: Final = "1.2.840.10008.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
#: Short names of transfer syntaxes, PS3.6 table A-1, in the order in which they are shown.
SYNTAXES: Final[Mapping[str, str]] = {
    IMPLICIT: "implicit",
    EXPLICIT: "explicit",
    "1.2.840.10008.1.2.1.99": "deflated",
    "1.2.840.10008.1.2.2": "big-endian",
    "1.2.840.10008.1.2.5": "RLE",
    "1.2.840.10008.1.2.4.50": "JPEG",
    "1.2.840.10008.1.2.4.51": "JPEG-12",
    "1.2.840.10008.1.2.4.70": "JPEG-lossless",
    "1.2.840.10008.1.2.4.80": "JPEG-LS",
    "1.2.840.10008.1.2.4.90": "J2K-lossless",
    "1.2.840.10008.1.2.4.91": "J2K",
    "1.2.840.10008.1.2.4.201": "HTJ2K-lossless",
}
VERIFICATION: Final = "1.2.840.10008.1.1"
#: What else it may do, by name. PS3.4 annexes C and J.
SERVICES: Final[Mapping[str, str]] = {
    "C-FIND (patient root)": "1.2.840.10008.5.1.4.1.2.1.1",
    "C-MOVE (patient root)": "1.2.840.10008.5.1.4.1.2.1.2",
    "C-GET (patient root)": "1.2.840.10008.5.1.4.1.2.1.3",
    "C-FIND (study root)": "1.2.840.10008.5.1.4.1.2.2.1",
    "C-MOVE (study root)": "1.2.840.10008.5.1.4.1.2.2.2",
    "C-GET (study root)": "1.2.840.10008.5.1.4.1.2.2.3",
    "C-FIND (worklist)": "1.2.840.10008.5.1.4.31",
    "storage commitment": "1.2.840.10008.1.20.1",
}
_FIND, _MOVE = "C-FIND (study root)", "C-MOVE (study root)"
#: PS3.4 table C.4-2.
_MOVE_DESTINATION_UNKNOWN: Final = 0xA801
_UNABLE_TO_PROCESS: Final = 0xC000
_ECHOES: Final = 3
_OVER: Final = (LostError, TimedOutError, AbortedError, ReleasedError, MalformedError, StoppedError)


class _BrokenError(Exception):
    """The examination ends; the text is a sentence for people."""


@dataclass(frozen=True)
class Stored:
    """What became of the test object.

    Attributes
    ----------
    outcome
        As for any instance.
    study_instance_uid, sop_instance_uid
        Under which it is found there.
    size
        Bytes of its dataset.
    seconds
        From its first byte to the answer.
    transfer_syntax_uid
        In which it was sent.
    """

    outcome: Outcome
    study_instance_uid: str
    sop_instance_uid: str
    size: int
    seconds: float
    transfer_syntax_uid: str


@dataclass
class Examination:
    """What was found out, as far as it came.

    Attributes
    ----------
    problem
        Why it came no further; none if it came to its end.
    connected_in
        Seconds until the first association stood.
    round_trip
        Seconds of the fastest C-ECHO; none if none was answered with success.
    implementation
        Class UID and version name of its software.
    max_pdu
        Longest PDU that it takes, bytes; 0: any.
    window
        Operations that it lets be under way at a time; 0: any number.
    services
        By name: whether it offers it.
    contexts
        By SOP class and transfer syntax: whether it takes it.
    results
        Of what it does not take: the result of PS3.8 table 9-18.
    stored
        What became of the test object; none if none was sent.
    tried
        Queries that it offers, by name, and what was wrong with them when they were tried; none if nothing was.
    """

    problem: str | None = None
    connected_in: float | None = None
    round_trip: float | None = None
    implementation: tuple[str, str] = ("", "")
    max_pdu: int = 0
    window: int = 1
    services: dict[str, bool] = field(default_factory=dict)
    contexts: dict[Pair, bool] = field(default_factory=dict)
    results: dict[Pair, int] = field(default_factory=dict)
    stored: Stored | None = None
    tried: dict[str, str | None] = field(default_factory=dict)


def common_pairs() -> list[Pair]:
    """Give the pairs of SOP class and transfer syntax that every destination is asked for."""
    return [(sop_class, syntax) for sop_class in STORAGE_CLASSES for syntax in SYNTAXES]


def examine(
    target: Target,
    timeouts: Timeouts,
    pairs: Iterable[Pair],
    specimen: Specimen | None,
    now: Callable[[], float],
    nobody: str | None = None,
) -> Examination:
    """Ask a destination what it can do, in as many associations as it takes, one after the other.

    Parameters
    ----------
    target
        Whom to call.
    timeouts
        How long silence is borne.
    pairs
        SOP classes and transfer syntaxes to ask for.
    specimen
        What to store there; none: nothing is stored.
    now
        Seconds of a clock that only goes on.
    nobody
        Study Instance UID that nobody has: with it, C-FIND and C-MOVE are tried where they are offered.
    """
    found = Examination()
    wanted = list(dict.fromkeys(pairs))
    try:
        _greet(target, timeouts, found, now)
        for start in range(0, len(wanted), MAX_CONTEXTS):
            _negotiate(target, timeouts, wanted[start : start + MAX_CONTEXTS], found)
        if nobody is not None:
            _query(target, timeouts, found, nobody)
        if specimen is not None:
            _store(target, timeouts, specimen, found, now)
    except EndError as end:
        found.problem = end.ending.problem
    except _BrokenError as error:
        found.problem = str(error)
    return found


def _greet(target: Target, timeouts: Timeouts, found: Examination, now: Callable[[], float]) -> None:
    began = now()
    pairs = ((VERIFICATION, IMPLICIT), *((sop_class, IMPLICIT) for sop_class in SERVICES.values()))
    association = connect(target, pairs, timeouts)
    found.connected_in = now() - began
    found.implementation = association.implementation
    found.max_pdu, found.window = association.max_pdu, association.window
    found.services = {name: (uid, IMPLICIT) in association.contexts for name, uid in SERVICES.items()}
    context_id = association.contexts.get((VERIFICATION, IMPLICIT))
    if context_id is None:
        association.release()
        raise _BrokenError("the receiver takes the association, but not C-ECHO")
    times = []
    for number in range(1, _ECHOES + 1):
        began = now()
        status = _asked(association, context_id, commands.echo_request(number), (), "C-ECHO")
        times.append(now() - began)
        if status != commands.SUCCESS:
            association.release()
            raise _BrokenError(f"the receiver answers C-ECHO with status {status:04X}")
    association.release()
    found.round_trip = min(times)


def _negotiate(target: Target, timeouts: Timeouts, pairs: list[Pair], found: Examination) -> None:
    association = connect(target, tuple(pairs), timeouts)
    association.release()
    for pair in pairs:
        found.contexts[pair] = pair in association.contexts
        result = association.refused.get((pair[0], (pair[1],)))
        if result is not None:
            found.results[pair] = result


def _query(target: Target, timeouts: Timeouts, found: Examination, nobody: str) -> None:
    """Try the queries that are offered. What goes wrong with them is noted, and ends nothing."""
    keys = {query.LEVEL: "STUDY", query.STUDY: nobody}
    for name in (_FIND, _MOVE):
        if not found.services[name]:
            continue
        pair = SERVICES[name], IMPLICIT
        association = connect(target, (pair,), timeouts)
        try:
            if pair not in association.contexts:
                found.tried[name] = "it was accepted before, and is not now"
            elif name == _FIND:
                query.find(association, association.contexts[pair], 1, keys)
                found.tried[name] = None
            else:
                status = query.move(association, association.contexts[pair], 1, keys, target.calling_aet)
                found.tried[name] = _move_problem(status, target.calling_aet)
        except query.QueryRefusedError as error:
            found.tried[name] = str(error)
        except _OVER as error:
            association.abort()
            found.tried[name] = f"{error}: does it know the AE title {target.calling_aet}, and allow it to ask?"
            continue
        association.release()


def _move_problem(status: int, aet: str) -> str | None:
    # Unable to process is what some say of a study that they do not have.
    if status == commands.SUCCESS or status & 0xF000 == _UNABLE_TO_PROCESS:
        return None
    if status == _MOVE_DESTINATION_UNKNOWN:
        return f"it does not know the AE title {aet} to move to (status A801): enter it there if it is to send to us"
    return f"it answers C-MOVE of a study that nobody has with status {status:04X}"


def _store(
    target: Target, timeouts: Timeouts, specimen: Specimen, found: Examination, now: Callable[[], float]
) -> None:
    pairs = ((SECONDARY_CAPTURE, EXPLICIT), (SECONDARY_CAPTURE, IMPLICIT))
    association = connect(target, pairs, timeouts)
    pair = next((pair for pair in pairs if pair in association.contexts), None)
    if pair is None:
        association.release()
        raise _BrokenError("the receiver does not take Secondary Capture images, which the test object is")
    encoded = specimen.encoded(implicit=pair[1] == IMPLICIT)
    request = commands.store_request(1, SECONDARY_CAPTURE, specimen.sop_instance_uid)
    began = now()
    status = _asked(association, association.contexts[pair], request, (encoded,), "C-STORE of a test object")
    found.stored = Stored(
        of_status(0, status),
        specimen.study_instance_uid,
        specimen.sop_instance_uid,
        len(encoded),
        now() - began,
        pair[1],
    )
    association.release()


def _asked(
    association: Association, context_id: int, request: commands.Command, pieces: tuple[bytes, ...], what: str
) -> int:
    """Send a request and give the status of its response."""
    try:
        association.send(context_id, request, pieces)
        answer = association.receive().command
        if answer.field == request.field | commands.RESPONSE and answer.responded_to == request.message_id:
            return answer.status
    except _OVER as error:
        association.abort()
        raise _BrokenError(f"the receiver takes the association but does not answer {what}: {error}") from error
    association.abort()
    raise _BrokenError(f"the receiver answers {what} with something else")
