"""One C-STORE request: what is checked, kept and answered, as its dataset passes. Runs in a receiver."""

import sys
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Final, Protocol

from libs.clock import Clock
from libs.dicom.identity import UnreadableDatasetError
from libs.dimse import command as commands
from libs.dimse.command import Command
from libs.dimse.negotiation import Context
from libs.telemetry.failure import described
from services.ingest import identity, presentation
from services.ingest.disk import SpoolFullError, SpoolUnavailableError, classified
from services.ingest.identity import Identity, Objection
from services.ingest.pool import Incoming, Pool
from services.ingest.scan import Scan
from services.ingest.seal import Heads, Seal
from services.ingest.span import Begin
from services.ingest.uplink import Stream, Uplink

#: PS3.5 section 9.1; a longer one is malformed, and is kept as far as a file's meta information can hold it.
_LONGEST_UID: Final = 64
#: Native pixels have a length of 32 bits, PS3.5 section 7.1; a header comes on top.
_LONGEST_NATIVE: Final = (4 << 30) + (64 << 20)
_LONGEST_ENCAPSULATED: Final = (16 << 30) + (64 << 20)
_NATIVE: Final = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1", "1.2.840.10008.1.2.2")
#: Bytes from which an object is uploaded while it is still coming.
_LARGE: Final = 16 << 20
#: What is logged by kind of failure.
_REFUSED: Final = {
    "object-store": "store refused: not in the object store",
    "full": "store refused: disk full",
    "spool": "store refused: spool not writable",
    "size": "store refused: object too large",
    "alarm": "store refused by a defect",
}


@dataclass(frozen=True)
class Session:
    """An association that was let in.

    Attributes
    ----------
    id
        Name of the association.
    tenant, site, node
        Keys in the network definition.
    may_store
        Whether it may send objects.
    may_report
        Whether it may report storage commitment, and has asked to.
    object_size
        Longest dataset that it may send, bytes; None for any.
    rated
        Whether its instances are counted, and some of them have to wait.
    provenance
        What each of its files says of where it came from.
    """

    id: str
    tenant: str
    site: str
    node: str
    may_store: bool
    may_report: bool
    object_size: int | None
    rated: bool
    provenance: Mapping[str, str]

    @cached_property
    def heads(self) -> Heads:
        """What makes the heads of its files."""
        return Heads(self.provenance)


class Reports(Protocol):
    """The way to the supervisor."""

    def spooled(self, arrival: Mapping[str, Any]) -> None:
        """Tell of an arrival that is on stable storage."""
        ...

    def answered(self, status: int, seconds: float, failure: str | None) -> None:
        """Tell of a response for which nothing was kept; `failure` is the kind of ours."""
        ...

    def log(self, level: str, event: str, **said: Any) -> None:
        """Have a line logged."""
        ...

    def hold(self, session: Session) -> None:
        """Return when a response may be sent, as far as rate and back-pressure go."""
        ...


class Refused:
    """A dataset that nothing is to be done with."""

    def __init__(self, request: Command, status: int, answered: Callable[[int], None]) -> None:
        self._request = request
        self._status = status
        self._answered = answered

    def write(self, fragment: memoryview) -> None:
        """Let it pass."""

    def finish(self) -> Command:
        """Answer with the status."""
        self._answered(self._status)
        return commands.response(self._request, self._status)

    def abandon(self) -> None:
        """Nothing was kept."""


class Intake:
    """Takes C-STORE requests, from many threads.

    Parameters
    ----------
    pool
        Where arrivals are kept.
    reports
        Who is told.
    begin_span
        Begins the span of each C-STORE.
    clock, noise
        Time, and random bytes for names.
    uplink
        Into the object store, where an arrival must be before it is acknowledged; None if the spool is enough.
    """

    def __init__(
        self,
        pool: Pool,
        reports: Reports,
        begin_span: Begin,
        *,
        clock: Clock,
        noise: Callable[[int], bytes],
        uplink: Uplink | None,
    ) -> None:
        self.pool = pool
        self.reports = reports
        self.begin_span = begin_span
        self.clock = clock
        self.noise = noise
        self.uplink = uplink
        #: Why the last arrival is not in the object store; said once, and not for each that is refused meanwhile.
        self.away: str | None = None

    def begin(self, session: Session | None, context: Context, request: Command) -> "Arriving | Refused":
        """Take a request whose dataset is about to come.

        The response has one of these statuses, PS3.7 section 9.1.1.1.9 and PS3.4 table B.2-1:

        ======  ==========================================================================
        0x0000  on stable storage; it will be routed, or visibly quarantined
        0x0117  the command's SOP Class or Instance UID is malformed; bytes quarantined
        0x0122  the presentation context is not for storage
        0x0124  the node may not store
        0x0211  not a C-STORE request
        0xA700  no room, too large, or spool or object store are away; nothing was kept
        0xA900  the dataset's SOP Class or Instance UID differs; bytes quarantined
        0xC000  no dataset, or an identifier is missing or malformed; bytes quarantined
        ======  ==========================================================================
        """
        if request.field != commands.C_STORE_RQ:
            return Refused(request, identity.UNRECOGNIZED_OPERATION, self._refused)
        if not presentation.is_storage(context.abstract_syntax):
            return Refused(request, identity.SOP_CLASS_NOT_SUPPORTED, self._refused)
        if session is None or not session.may_store:
            return Refused(request, identity.NOT_AUTHORIZED, self._refused)
        return Arriving(self, session, context.transfer_syntax, request)

    def _refused(self, status: int) -> None:
        self.reports.answered(status, 0.0, None)


class Arriving:
    """A dataset on its way into a spool file; for one thread."""

    def __init__(self, intake: Intake, session: Session, transfer_syntax: str, request: Command) -> None:
        self._intake = intake
        self._session = session
        self._syntax = transfer_syntax
        self._request = request
        self._class = request.sop_class_uid[: _LONGEST_UID + 1]
        self._instance = request.sop_instance_uid[: _LONGEST_UID + 1]
        received = intake.clock()
        self._received = received.isoformat()
        self._id = f"{int(received.timestamp() * 1_000_000):016x}-{intake.noise(8).hex()}"
        self._length = 0
        self._limit = _LONGEST_NATIVE if transfer_syntax in _NATIVE else _LONGEST_ENCAPSULATED
        if session.object_size is not None:
            self._limit = min(self._limit, session.object_size)
        self._scan = Scan(transfer_syntax)
        self._file: Incoming | None = None
        self._failure: tuple[str, str] | None = None
        self._stream: Stream | None = None
        #: Length from which there is more to do than to write.
        self._large = sys.maxsize if intake.uplink is None else _LARGE
        self._open()

    def write(self, fragment: memoryview) -> None:
        """Take more of the dataset. What fails is said by `finish`; the rest is let pass."""
        self._length += len(fragment)
        if self._file is None:
            return
        if self._length > self._limit:
            self._fail("size", f"the object is longer than {self._limit} bytes, which is the limit of this node")
            return
        self._scan.feed(fragment)
        try:
            self._file.write(fragment)
        except (OSError, SpoolFullError) as error:
            self._broken(error)
        if self._length >= self._large:
            self._upload()

    def abandon(self) -> None:
        """Remove what came: the association ended before the dataset did."""
        if self._stream is not None:
            self._stream.abandon()
            self._stream = None
        file, self._file = self._file, None
        if file is not None:
            # One that can't be removed has no seal, or one that nobody was told of: the next start finds it.
            with suppress(OSError):
                file.discard()

    def finish(self) -> Command:
        """Make it durable, tell the supervisor, answer."""
        began = time.monotonic()
        try:
            status = self._finish(began)
        except Exception as error:  # noqa: BLE001 (whatever it is: nothing was promised, and the sender is to come again)
            self.abandon()
            self._intake.reports.log(
                "error", "store refused by a defect", status="0xA700", association=self._session.id, **described(error)
            )
            status = identity.OUT_OF_RESOURCES
            self._intake.reports.answered(status, time.monotonic() - began, "alarm")
        return commands.response(self._request, status)

    def _open(self) -> None:
        head = self._session.heads.make(self._class, self._instance, self._syntax, self._id, self._received)
        try:
            self._file = self._intake.pool.take(head)
        except (SpoolFullError, SpoolUnavailableError) as error:
            self._broken(error)

    def _upload(self) -> None:
        """Upload what came, as far as it has."""
        if self._file is None or self._intake.uplink is None:
            return
        if self._stream is None:
            found = self._scan.found
            if found is None or identity.check(self._class, self._instance, found) is not None:
                # Looked at when it is whole, and most likely refused.
                self._large = sys.maxsize
                return
            uids = (found.study_instance_uid, found.series_instance_uid)
            arrival = self._arrival(self._file, uids, Seal("", 0, identity.SUCCESS), "", "")
            try:
                self._stream = self._intake.uplink.stream(self._file.path, arrival)
            except OSError as error:
                self._broken(error)
                return
        if self._stream.failure is not None:
            self._fail("object-store", self._stream.failure)
            return
        self._stream.came(self._file.landed)

    def _finish(self, began: float) -> int:
        reports = self._intake.reports
        if self._file is None:
            kind, why = self._failure or ("alarm", "")
            if kind != "object-store" or why != self._intake.away:
                reports.log("error", _REFUSED[kind], status="0xA700", reason=why, **self._said())
            if kind == "object-store":
                self._intake.away = why
            reports.answered(identity.OUT_OF_RESOURCES, time.monotonic() - began, kind)
            return identity.OUT_OF_RESOURCES
        try:
            found, objection = self._judged(self._file)
        except (OSError, SpoolFullError) as error:
            self._broken(error)
            return self._finish(began)
        status = identity.SUCCESS if objection is None else objection.status
        study_uid = "" if found is None else found.study_instance_uid
        span = self._intake.begin_span(
            self._session.tenant,
            study_uid,
            {
                "dicom.sop_class_uid": self._class,
                "dicom.transfer_syntax_uid": self._syntax,
                "kivuko.node": self._session.node,
                "kivuko.site": self._session.site,
                "kivuko.association": self._session.id,
            },
        )
        series_uid = "" if found is None else found.series_instance_uid
        arrival = self._sealed(self._file, (study_uid, series_uid), objection, span.traceparent)
        if arrival is None:
            span.end(identity.OUT_OF_RESOURCES)
            return self._finish(began)
        self._file = None
        self._stream = None
        reports.spooled({**arrival, "seconds": time.monotonic() - began})
        span.end(status)
        if objection is not None:
            said = {"status": f"0x{status:04X}", "reason": objection.detail, **self._said()}
            reports.log("warning", "store refused: bytes kept", **said)
        reports.hold(self._session)
        return status

    def _sealed(
        self, file: Incoming, uids: tuple[str, str], objection: Objection | None, traceparent: str
    ) -> dict[str, Any] | None:
        """Make the file an entry of the spool; None if that failed, and nothing of it stays."""
        status, reason, detail = identity.SUCCESS, "", ""
        if objection is not None:
            status, reason, detail = objection.status, objection.reason, objection.detail
        try:
            seal = file.seal(status, reason, detail, traceparent)
        except (OSError, SpoolFullError) as error:
            self._broken(error)
            return None
        arrival = self._arrival(file, uids, seal, reason, traceparent)
        if self._intake.uplink is not None and objection is None:
            if self._stream is None:
                why = self._intake.uplink.put(file.path, arrival)
            else:
                why = self._stream.finish(file.size)
            if why is not None:
                self._fail("object-store", why)
                return None
            self._intake.away = None
        return arrival

    def _arrival(
        self, file: Incoming, uids: tuple[str, str], seal: Seal, reason: str, traceparent: str
    ) -> dict[str, Any]:
        return {
            "association": self._session.id,
            "id": self._id,
            "sop_class_uid": self._class,
            "sop_instance_uid": self._instance,
            "transfer_syntax_uid": self._syntax,
            "received_at": self._received,
            "traceparent": traceparent,
            "study_uid": uids[0],
            "series_uid": uids[1],
            "file": file.name,
            "size": file.size,
            "sha256": seal.sha256,
            "length": seal.length,
            "status": seal.status,
            "reason": reason,
            "detail": seal.detail,
        }

    def _judged(self, file: Incoming) -> tuple[Identity | None, Objection | None]:
        """Compare the dataset with its command. The same bytes always get the same verdict."""
        found, unreadable = self._scan.found, self._scan.unreadable
        if found is None and unreadable is None:
            # It ended before the last identifier, or they stand far behind.
            from libs.dicom import header  # noqa: PLC0415 - hardly any dataset needs it, and it is large

            try:
                with self._scan.whole() or file.reading() as dataset:
                    found = header.read(dataset, self._syntax)
            except UnreadableDatasetError as error:
                unreadable = str(error)
        if found is None:
            return None, identity.unreadable(unreadable or "")
        return found, identity.check(self._class, self._instance, found)

    def _broken(self, error: OSError | SpoolFullError | SpoolUnavailableError) -> None:
        if isinstance(error, OSError):
            error = classified(error)
        self._fail("full" if isinstance(error, SpoolFullError) else "spool", str(error))

    def _fail(self, kind: str, why: str) -> None:
        self.abandon()
        self._failure = (kind, why)

    def _said(self) -> dict[str, Any]:
        return {"node": self._session.node, "association": self._session.id, "size": self._length}
