"""One C-STORE request: what is checked, kept and answered. Nothing here knows how the request was read."""

import io
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Protocol

from opentelemetry.trace import SpanKind, Tracer

from contracts.fact import Source
from libs.clock import Clock
from libs.dicom import uid
from libs.dimse.admission import Admitted
from libs.storage.objects import StoreFullError, StoreUnavailableError
from libs.telemetry import log, trace
from services.ingest import identity, metric
from services.ingest.arrival import Arrival, Entry, arrival_id
from services.ingest.spool import Spool, SpoolFullError, SpoolUnavailableError, examine
from services.ingest.work import Work

_LOG = log.get(__name__)
_TRACER: Tracer = trace.tracer(__name__)
#: PS3.5 section 9.1; a longer one is malformed, and is kept as far as a file's meta information can hold it.
_LONGEST_UID = 64


@dataclass(frozen=True)
class Session:
    """An association that was let in.

    Attributes
    ----------
    id
        Name of the association.
    node
        Who it is.
    source
        The same as events carry it.
    """

    id: str
    node: Admitted
    source: Source


@dataclass(frozen=True)
class StoreRequest:
    """A C-STORE request, whole.

    Attributes
    ----------
    sop_class_uid, sop_instance_uid
        Affected SOP Class and Instance UID of the command, not checked.
    transfer_syntax_uid
        Of the presentation context.
    dataset
        The bytes as received.
    """

    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    dataset: memoryview


class Upload(Protocol):
    """Makes an entry durable in the object store too, before it is acknowledged."""

    def put(self, entry: Entry) -> None:
        """Return when it is; raise StoreUnavailableError or StoreFullError if it can't be."""
        ...

    def forget(self, entry: Entry) -> None:
        """Take `put` back: the sender is told a failure."""
        ...


class Intake:
    """Takes C-STORE requests, from many threads.

    Parameters
    ----------
    spool, work
        Where an entry is kept, and who is told of it.
    submit
        Hands an entry to the indexer; called from any thread, never blocks.
    upload
        With `ack=object-store`; None with `ack=spool`.
    clock, noise
        Time, and random bytes for names.
    """

    def __init__(
        self,
        spool: Spool,
        work: Work,
        submit: Callable[[Entry], None],
        *,
        upload: Upload | None,
        clock: Clock,
        noise: Callable[[int], bytes],
    ) -> None:
        self._spool = spool
        self._work = work
        self._submit = submit
        self._upload = upload
        self._clock = clock
        self._noise = noise

    def store(self, session: Session, request: StoreRequest) -> int:
        """Check an object and make it durable.

        Returns
        -------
        int
            Status of the response, PS3.7 section 9.1.1.1.9 and PS3.4 table B.2-1:

            ======  ==========================================================================
            0x0000  on stable storage; it will be routed, or visibly quarantined
            0x0117  the command's SOP Class or Instance UID is malformed; bytes quarantined
            0x0124  the node may not store
            0xA700  no room, or the spool or the object store is away; nothing was kept
            0xA900  the dataset's SOP Class or Instance UID differs; bytes quarantined
            0xC000  no dataset, or an identifier is missing or malformed; bytes quarantined
            ======  ==========================================================================
        """
        started = self._clock()
        status = self._store(session, request)
        metric.INSTANCES.labels(status=f"0x{status:04X}").inc()
        metric.RESPONSE.observe((self._clock() - started).total_seconds())
        if status == identity.SUCCESS:
            metric.BYTES.inc(len(request.dataset))
        return status

    def _store(self, session: Session, request: StoreRequest) -> int:
        if "store" not in session.node.may:
            _LOG.warning("store refused: the node may not store", node=session.node.node, association=session.id)
            return identity.NOT_AUTHORIZED
        now = self._clock()
        arrival = Arrival(
            id=arrival_id(now, self._noise(8)),
            tenant=session.node.tenant,
            source=session.source,
            association_id=session.id,
            sop_class_uid=request.sop_class_uid[: _LONGEST_UID + 1],
            sop_instance_uid=request.sop_instance_uid[: _LONGEST_UID + 1],
            transfer_syntax_uid=request.transfer_syntax_uid,
            received_at=now,
        )
        found, objection = examine(arrival, io.BytesIO(request.dataset))
        study_uid = found.study_instance_uid if found is not None else ""
        context = trace.study_context(arrival.tenant, study_uid) if uid.is_valid(study_uid) else None
        with _TRACER.start_as_current_span(
            "C-STORE", context=context, kind=SpanKind.SERVER, record_exception=False, set_status_on_exception=False
        ) as span:
            span.set_attribute("dicom.sop_class_uid", arrival.sop_class_uid)
            span.set_attribute("dicom.transfer_syntax_uid", arrival.transfer_syntax_uid)
            span.set_attribute("kivuko.node", session.node.node)
            span.set_attribute("kivuko.site", session.node.site)
            span.set_attribute("kivuko.association", session.id)
            arrival = replace(arrival, traceparent=trace.traceparent() or "")
            series_uid = found.series_instance_uid if found is not None else ""
            status = self._keep(arrival, request, (study_uid, series_uid), objection)
            span.set_attribute("dicom.status", status)
        return status

    def _keep(
        self, arrival: Arrival, request: StoreRequest, uids: tuple[str, str], objection: identity.Objection | None
    ) -> int:
        said = {"node": arrival.source.node, "association": arrival.association_id, "size": len(request.dataset)}
        try:
            part, digest, size = self._spool.write(arrival, request.dataset)
            entry = Entry(arrival, *uids, part, digest, size, accepted=objection is None)
            entry = self._promised(entry)
        except (StoreFullError, StoreUnavailableError) as error:
            metric.FAILURES.labels(kind="object-store").inc()
            _LOG.error("store refused: not in the object store", status="0xA700", reason=str(error), **said)
            return identity.OUT_OF_RESOURCES
        except SpoolFullError as error:
            metric.FAILURES.labels(kind="full").inc()
            _LOG.error("store refused: disk full", status="0xA700", reason=str(error), **said)
            return identity.OUT_OF_RESOURCES
        except SpoolUnavailableError as error:
            metric.FAILURES.labels(kind="spool").inc()
            _LOG.error("store refused: spool not writable", status="0xA700", reason=str(error), **said)
            return identity.OUT_OF_RESOURCES
        self._submit(entry)
        if objection is None:
            return identity.SUCCESS
        _LOG.warning("store refused: bytes kept", status=f"0x{objection.status:04X}", reason=objection.detail, **said)
        return objection.status

    def _promised(self, entry: Entry) -> Entry:
        upload = self._upload if entry.accepted else None
        # Known to be in hand before it is an entry: a study is never complete in between.
        self._work.spooled(entry.arrival.id, entry.arrival.association_id, entry.study, entry.arrival.received_at)
        kept = False
        try:
            if upload is not None:
                upload.put(entry)
            entry = replace(entry, path=self._spool.keep(entry.path, accepted=entry.accepted))
            kept = True
        finally:
            if not kept:
                self._spool.discard(entry.path)
                if upload is not None:
                    upload.forget(entry)
                self._work.indexed(entry.arrival.id)
        return entry
