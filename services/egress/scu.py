"""The edge to C-STORE and C-ECHO service class providers: one association in the caller's thread. PS3.4 annex B."""

import io
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import chain
from typing import BinaryIO, Final, cast

from libs.dicom.reencode import EXPLICIT, NotReencodableError, can_reencode, reencoded
from libs.dimse import command as commands
from libs.dimse.connection import StoppedError
from libs.dimse.pdu import MalformedError, Reason
from libs.dimse.requestor import Association, Message, ReleasedError
from libs.storage.objects import StoreUnavailableError
from services.egress.calling import MAX_CONTEXTS, OVER, EndError, Ending, Timeouts, connect
from services.egress.outcome import (
    NO_ANSWER,
    NO_CONTEXT,
    OBJECT_DAMAGED,
    UNSENDABLE,
    Outcome,
    Verdict,
    of_status,
)
from services.egress.pace import Pace, piece
from services.egress.parcel import WHOLE, DamagedError, Joined, Parcel, Readable, dataset
from services.egress.reach import Target
from services.egress.shelf import Shelf

#: Pairs that are proposed only because they were accepted before.
_SPARE: Final = 32
#: A receiver that has no room says so for every instance: after so many in a row it is left alone for a while.
BUSY_ANSWERS: Final = 3
#: Operations that may be under way at once, where the receiver grants it: PS3.7 annex D.3.3.3.
WINDOW: Final = 8
_IMPLICIT: Final = "1.2.840.10008.1.2"
#: What uncompressed data can be given in instead, the better first.
_UNCOMPRESSED: Final = (EXPLICIT, _IMPLICIT)
_IN_OTHER_WORDS: Final = "Sent in transfer syntax {}: the receiver does not take the one in which it is kept."
_DEFLATED: Final = "1.2.840.10008.1.2.1.99"
_LAST_MESSAGE_ID: Final = 65_535
_STOPPED = Ending("stopped", "this process was asked to stop")

Tell = Callable[[Parcel, Outcome], None]
Learned = Callable[[Mapping[tuple[str, str], bool]], None]


class Call:
    """One association with a destination: what is on its shelf is sent, until nothing more comes.

    Each instance's outcome is told as soon as it is known. What was under way when the association broke is told
    `later`; what was not begun stays on the shelf.

    Parameters
    ----------
    target
        Whom to call.
    shelf
        What is to be sent. Taken one after the other: what comes on it meanwhile and is more urgent goes first.
    objects
        Where the instances are.
    timeouts
        How long silence is borne.
    tell
        Called in the thread of `run` with each outcome.
    accepted
        What the destination is known to accept, and not to: pairs of SOP class and transfer syntax.
    learned
        Called with what it answered this time.
    linger
        How long an association is kept when nothing is to be sent, in seconds.
    paces
        Caps that hold for it, the narrowest first.
    window
        Operations that may be under way, if the receiver grants it; with 1 it is not asked.

    Attributes
    ----------
    answered
        Whether any instance was answered.
    """

    def __init__(
        self,
        target: Target,
        shelf: Shelf,
        objects: Readable,
        timeouts: Timeouts,
        tell: Tell,
        *,
        accepted: Mapping[tuple[str, str], bool] | None = None,
        learned: Learned = lambda _answers: None,
        linger: float = 0.0,
        paces: Sequence[Pace] = (),
        window: int = WINDOW,
    ) -> None:
        self._paces = paces
        self._target = target
        self._shelf = shelf
        self._objects = objects
        self._timeouts = timeouts
        self._tell = tell
        self._accepted = accepted or {}
        self._learned = learned
        self._linger = linger
        self._stop = threading.Event()
        self._abort = threading.Event()
        self._association: Association | None = None
        self._proposed: set[tuple[str, str]] = set()
        self._under_way: dict[int, Parcel] = {}
        self._ahead: tuple[Parcel, list[bytes | memoryview]] | None = None
        self._message_id = 0
        self._busy = 0
        self._last_status = ""
        self._window = window
        self.answered = False

    def stop(self) -> None:
        """End the association after what is under way; from any thread."""
        self._stop.set()

    def abort(self) -> None:
        """End the association now; from any thread."""
        self._stop.set()
        self._abort.set()
        association = self._association
        if association is not None:
            association.stop()

    def run(self) -> Ending:
        """Call, send, and take leave."""
        pairs = self._wanted()
        try:
            association = connect(self._target, tuple(pairs), self._timeouts, self._known, self._window)
        except EndError as end:
            return _STOPPED if self._stop.is_set() else end.ending
        self._proposed = set(pairs)
        self._learned({pair: pair in association.contexts for pair in pairs})
        try:
            ending = self._send_all(association)
        except EndError as end:
            self._drop(association, None)
            return end.ending
        except OVER as error:
            return self._broken(association, error)
        except StoppedError as error:
            self._drop(association, f"No answer: {error}.")
            return _STOPPED
        except BaseException:
            self._drop(association, "No answer: sending it broke off inside Kivuko; report it.")
            raise
        association.release()
        return ending

    def _known(self, association: Association) -> None:
        self._association = association
        if self._stop.is_set():
            association.stop()

    def _wanted(self) -> list[tuple[str, str]]:
        """Name what to propose: what is needed, and what was accepted before, in case it is needed next."""
        needed = self._shelf.pairs()
        known = [pair for pair, accepted in self._accepted.items() if accepted]
        # Besides, what may be taken instead; not where it is known that the other is taken.
        others = [
            (sop_class, syntax)
            for sop_class, kept in needed
            if not self._accepted.get((sop_class, kept))
            for syntax in _UNCOMPRESSED
            if can_reencode(kept, syntax)
        ]
        return list(dict.fromkeys((*needed, *others, *known[:_SPARE])))[:MAX_CONTEXTS]

    def _send_all(self, association: Association) -> Ending:
        window = min(association.window or self._window, self._window)
        while True:
            while len(self._under_way) < window and not self._stop.is_set():
                parcel = self._shelf.take(0 if self._under_way else self._linger, self._can_go)
                if parcel is None:
                    break
                self._begin(association, parcel)
            if not self._under_way:
                if self._stop.is_set():
                    return _STOPPED
                # A probe is one instance: what it was answered is all that is known.
                return self._full() if self._busy else Ending("finished")
            self._look_ahead(association)
            self._hear(association.receive())

    def _can_go(self, parcel: Parcel) -> bool:
        # What needs a presentation context that was not proposed ends this association, and begins the next.
        return parcel.pair in self._proposed

    def _begin(self, association: Association, parcel: Parcel) -> None:
        syntax = _syntax(parcel, association)
        if syntax is None:
            self._tell(parcel, _no_context(parcel))
            return
        self._message_id = self._message_id % _LAST_MESSAGE_ID + 1
        try:
            request = commands.store_request(self._message_id, parcel.sop_class_uid, parcel.sop_instance_uid)
        except ValueError:
            self._tell(parcel, _unsendable(parcel, "Its UIDs can't be put into a C-STORE request."))
            return
        # From here on it is told of, whatever breaks.
        self._under_way[self._message_id] = parcel
        try:
            pieces = self._ready(parcel, syntax)
        except StoreUnavailableError as error:
            del self._under_way[self._message_id]
            self._shelf.put([parcel])
            raise EndError(Ending("store-away", str(error))) from error
        except (DamagedError, _UnsendableError) as error:
            del self._under_way[self._message_id]
            self._tell(parcel, _unfit(parcel, error))
            return
        try:
            if self._paces:
                pieces = self._paced(pieces)
            association.send(association.contexts[parcel.sop_class_uid, syntax], request, pieces)
        except (*OVER, StoppedError) as error:
            # Whatever it has answered already: a success can't mean a dataset that it has not got.
            del self._under_way[self._message_id]
            self._tell(parcel, Outcome(parcel.item, Verdict.LATER, NO_ANSWER, f"No answer: {error}."))
            raise
        except (DamagedError, _UnsendableError, StoreUnavailableError) as error:
            # Part of it has left: only an abort keeps the receiver from taking it for the whole.
            del self._under_way[self._message_id]
            if isinstance(error, StoreUnavailableError):
                self._shelf.put([parcel])
                raise EndError(Ending("store-away", str(error))) from error
            self._tell(parcel, _unfit(parcel, error))
            raise EndError(Ending("stopped", "an object turned out to be unfit while it was sent")) from error

    def _paced(self, pieces: Iterator[bytes | memoryview]) -> Iterator[bytes | memoryview]:
        """Give pieces when their time has come, none longer than what may go at once."""
        for whole in pieces:
            at, view = 0, memoryview(whole)
            while at < len(view):
                part = view[at : at + piece(self._paces[0].rate)]
                at += len(part)
                for pace in self._paces:
                    if self._abort.wait(pace.take(len(part))):
                        raise StoppedError("this side was asked to end the association")
                yield part

    def _ready(self, parcel: Parcel, syntax: str) -> Iterator[bytes | memoryview]:
        """Give the pieces of a dataset, of a small one when it has been checked."""
        ahead, self._ahead = self._ahead, None
        if ahead is not None and ahead[0] is parcel:
            return iter(ahead[1])
        pieces = self._encoded(parcel, syntax)
        if parcel.size <= WHOLE:
            return iter(list(pieces))
        # What is missing, or can't be read at all, is found out before anything has left.
        return chain([next(pieces, b"")], pieces)

    def _encoded(self, parcel: Parcel, syntax: str) -> Iterator[bytes | memoryview]:
        pieces = dataset(parcel, self._objects)
        if syntax == parcel.transfer_syntax_uid:
            return _even(parcel, pieces)
        file = cast("BinaryIO", io.BufferedReader(Joined(pieces)))
        return _reencoded(file, parcel.transfer_syntax_uid, syntax)

    def _look_ahead(self, association: Association) -> None:
        """Read and check what comes next while the receiver is at work on what it has."""
        following = self._shelf.next()
        if following is None or following.size > WHOLE or (self._ahead is not None and self._ahead[0] is following):
            return
        syntax = _syntax(following, association)
        if syntax is None:
            return
        try:
            self._ahead = following, list(self._encoded(following, syntax))
        except (DamagedError, _UnsendableError, StoreUnavailableError):
            self._ahead = None  # it is found out again, and told, when its turn has come

    def _hear(self, message: Message) -> None:
        command = message.command
        if command.field != commands.C_STORE_RQ | commands.RESPONSE:
            raise MalformedError(Reason.UNEXPECTED_PARAMETER, "the receiver sent something that is no C-STORE response")
        parcel = self._under_way.pop(command.responded_to, None)
        if parcel is None:
            raise MalformedError(Reason.UNEXPECTED_PARAMETER, "the receiver answered a request that was not made")
        outcome = of_status(parcel.item, command.status)
        if outcome.verdict is Verdict.SENT and self._association is not None:
            syntax = _syntax(parcel, self._association)
            if syntax is not None and syntax != parcel.transfer_syntax_uid:
                outcome = replace(outcome, reason=_IN_OTHER_WORDS.format(syntax))
        self._tell(parcel, outcome)
        self._busy = self._busy + 1 if outcome.verdict is Verdict.LATER else 0
        self._last_status = outcome.status
        self.answered = True
        if self._busy == BUSY_ANSWERS:
            raise EndError(self._full())

    def _full(self) -> Ending:
        return Ending("busy", f"the receiver is out of resources (status {self._last_status})")

    def _broken(self, association: Association, error: Exception) -> Ending:
        for message in association.come():
            # Answers that were there before it broke are answers.
            try:
                self._hear(message)
            except (MalformedError, EndError):
                break
        problem = str(error)
        if isinstance(error, ReleasedError):
            association.close()
        self._drop(association, f"No answer: {problem}.")
        return Ending("unreachable", problem)

    def _drop(self, association: Association, reason: str | None) -> None:
        """End an association, and tell of what was under way that nobody knows whether it arrived."""
        association.abort()
        for parcel in self._under_way.values():
            said = reason or "No answer: the association was ended before it came."
            self._tell(parcel, Outcome(parcel.item, Verdict.LATER, NO_ANSWER, said))
        self._under_way.clear()


class _UnsendableError(Exception):
    """No association can carry the instance; the text is a sentence for people."""


def _syntax(parcel: Parcel, association: Association) -> str | None:
    """Tell in which transfer syntax an instance can go: as it is kept, or else in one that says the same."""
    for syntax in (parcel.transfer_syntax_uid, *_UNCOMPRESSED):
        if (parcel.sop_class_uid, syntax) in association.contexts and (
            syntax == parcel.transfer_syntax_uid or can_reencode(parcel.transfer_syntax_uid, syntax)
        ):
            return syntax
    return None


def _reencoded(file: BinaryIO, source: str, target: str) -> Iterator[bytes]:
    try:
        yield from reencoded(file, source, target)
    except NotReencodableError as error:
        raise _UnsendableError(f"It can't be given in a transfer syntax that the receiver takes: {error}.") from error


def _even(parcel: Parcel, pieces: Iterator[bytes | memoryview]) -> Iterator[bytes | memoryview]:
    """See that the dataset has an even length. PS3.8 annex E allows no other; receivers abort at an odd one."""
    count = 0
    for each in pieces:
        count += len(each)
        yield each
    if count == 0:
        raise _UnsendableError("Its dataset is empty.")
    if count % 2 == 0:
        return
    if parcel.transfer_syntax_uid != _DEFLATED:
        raise _UnsendableError("Its dataset has an odd length, which no association can carry (PS3.8 annex E).")
    # PS3.5 section A.5 ends an odd deflated stream with a NULL; files in the field lack it.
    yield b"\0"


def _no_context(parcel: Parcel) -> Outcome:
    return Outcome(
        parcel.item,
        Verdict.REFUSED,
        NO_CONTEXT,
        f"The receiver does not take SOP class {parcel.sop_class_uid} in transfer syntax {parcel.transfer_syntax_uid}.",
    )


def _unsendable(parcel: Parcel, reason: str) -> Outcome:
    return Outcome(parcel.item, Verdict.REFUSED, UNSENDABLE, reason)


def _unfit(parcel: Parcel, error: DamagedError | _UnsendableError) -> Outcome:
    if isinstance(error, DamagedError):
        return Outcome(parcel.item, Verdict.DAMAGED, OBJECT_DAMAGED, str(error))
    return _unsendable(parcel, str(error))
