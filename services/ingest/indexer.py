"""Turns spool entries into index rows, objects and events: batches of one study, one transaction each."""

import asyncio
import gzip
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from sqlalchemy.exc import SQLAlchemyError

from contracts.fact import Attributes, ObjectRef
from contracts.instances import InstanceQuarantined, InstancesStored, StoredInstance
from libs.clock import Clock
from libs.dicom import header, part10, uid
from libs.messaging.outbox import Outbox
from libs.storage.database import Database
from libs.storage.objects import ObjectStore, StoreFullError, StoreUnavailableError
from libs.telemetry import log, trace
from services.ingest import identity, metric, repository
from services.ingest.arrival import Arrival, Entry
from services.ingest.identity import Objection
from services.ingest.settings import IngestSettings
from services.ingest.spool import Spool, examine
from services.ingest.work import Work

_LOG = log.get(__name__)
_TRACER = trace.tracer(__name__)
#: What is expected to mend itself: the entries stay in the spool and are tried again.
_PASSING = (StoreUnavailableError, StoreFullError, SQLAlchemyError, OSError, repository.RacedError)
_LONGEST_WAIT = 30.0
#: After so many failures of a whole batch its entries go on one by one, so that a bad one holds up no other.
_TOGETHER = 3
_WORKERS = 4


@dataclass
class _Batch:
    entries: list[Entry]
    attempt: int = 0


@dataclass
class _Sorted:
    new: list[Entry] = field(default_factory=list)
    duplicates: list[Entry] = field(default_factory=list)
    conflicts: list[Entry] = field(default_factory=list)


class Indexer:
    """Collects entries by study and association, and indexes them in batches.

    Parameters
    ----------
    run
        Name of this process, never used before.
    changed
        Called when a batch was indexed: a study may have another time at which it is due.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        spool: Spool,
        work: Work,
        outbox: Outbox,
        *,
        run: str,
        settings: IngestSettings,
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        self._database = database
        self._objects = objects
        self._spool = spool
        self._work = work
        self._outbox = outbox
        self._run = run
        self._settings = settings
        self._clock = clock
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._groups: dict[tuple[str, str, str], list[Entry]] = {}
        self._ready: asyncio.Queue[_Batch] = asyncio.Queue()
        #: Why the last batch failed; None after one that did not.
        self.trouble: str | None = None

    def submit(self, entry: Entry) -> None:
        """Take an entry, from any thread."""
        try:
            self._loop.call_soon_threadsafe(self._add, entry)
        except RuntimeError:
            # The process is ending. The entry is durable and is found at the next start.
            _LOG.info("entry left in the spool until the next start", association=entry.arrival.association_id)

    async def run(self) -> None:
        """Index until cancelled: what one batch waits for, the disk or the object store, does not stop the others."""
        async with asyncio.TaskGroup() as workers:
            for _ in range(_WORKERS):
                workers.create_task(self._work_off())

    async def _work_off(self) -> None:
        while True:
            batch = await self._ready.get()
            try:
                await self._index(batch.entries)
            except _PASSING as error:
                self._again(batch, error, expected=True)
            except Exception as error:  # noqa: BLE001 (one batch must not stop the others; it is kept and tried again)
                self._again(batch, error, expected=False)
            else:
                self.trouble = None
                self._changed()

    def _add(self, entry: Entry) -> None:
        if not entry.accepted:
            self._ready.put_nowait(_Batch([entry]))
            return
        key = (*entry.study, entry.arrival.association_id)
        group = self._groups.get(key)
        if group is None:
            self._groups[key] = group = []
            self._loop.call_later(self._settings.linger_seconds, self._flush, key, group)
        group.append(entry)
        if len(group) >= self._settings.batch_size:
            self._flush(key, group)

    def _flush(self, key: tuple[str, str, str], group: list[Entry]) -> None:
        # A group that was full has gone already, and the key may belong to the next one.
        if self._groups.get(key) is group:
            del self._groups[key]
            self._ready.put_nowait(_Batch(group))

    def _again(self, batch: _Batch, error: Exception, *, expected: bool) -> None:
        batch.attempt += 1
        wait = min(_LONGEST_WAIT, 0.1 * 2 ** min(batch.attempt, 16))
        said: dict[str, Any] = {"instances": len(batch.entries), "attempt": batch.attempt, "delay": wait}
        safe = str(error) if getattr(type(error), "safe_to_log", False) else type(error).__name__
        metric.FAILURES.labels(kind="index" if expected else "alarm").inc()
        if expected:
            self.trouble = safe
            _LOG.warning("batch not indexed, kept in the spool and tried again", reason=safe, **said)
        else:
            _LOG.error("batch not indexed by a defect, kept in the spool and tried again", exc_info=error, **said)
        batches = [batch]
        if not expected and batch.attempt >= _TOGETHER and len(batch.entries) > 1:
            batches = [_Batch([entry], batch.attempt) for entry in batch.entries]
        for each in batches:
            self._loop.call_later(wait, self._ready.put_nowait, each)

    async def _index(self, entries: list[Entry]) -> None:
        taken = []
        for entry in entries:
            if entry.accepted:
                taken.append(entry)
            else:
                await self._reject(entry)
        if not taken:
            return
        first = taken[0].arrival
        links = [link for entry in taken for link in trace.link_to(entry.arrival.traceparent)]
        with _TRACER.start_as_current_span(
            "index batch",
            context=trace.study_context(*taken[0].study),
            links=links,
            record_exception=False,
        ) as span:
            span.set_attribute("kivuko.instances", len(taken))
            span.set_attribute("kivuko.association", first.association_id)
            sorted_ = await self._sort(taken)
            documents: dict[str, Any] = {}
            stored = []
            for entry in list(sorted_.new):
                instance, document = await asyncio.to_thread(self._publish, entry)
                stored.append(instance)
                documents[entry.arrival.sop_instance_uid] = document
            if sorted_.new or sorted_.duplicates:
                await self._commit(sorted_, tuple(stored), documents)
        for entry in sorted_.conflicts:
            await self._quarantine(
                entry,
                Objection(
                    identity.SUCCESS,
                    "content-conflict",
                    "another content is kept under this SOP Instance UID, and the sender was told success",
                ),
            )

    async def _sort(self, entries: list[Entry]) -> _Sorted:
        async with self._database.reading() as tx:
            kept = await repository.known(
                tx, entries[0].arrival.tenant, {entry.arrival.sop_instance_uid for entry in entries}
            )
        result = _Sorted()
        hashes = {sop_uid: each.content_hash for sop_uid, each in kept.items()}
        for entry in entries:
            sop_uid = entry.arrival.sop_instance_uid
            if sop_uid not in hashes:
                hashes[sop_uid] = entry.content_hash
                result.new.append(entry)
            elif hashes[sop_uid] == entry.content_hash:
                result.duplicates.append(entry)
            else:
                result.conflicts.append(entry)
        return result

    def _publish(self, entry: Entry) -> tuple[StoredInstance, dict[str, Any]]:
        """Put an entry's object where every egress replica reads it; the entry stays until its rows are committed."""
        with entry.path.open("rb") as file:
            part10.decode(file)
            found, document = header.read_whole(file, entry.arrival.transfer_syntax_uid)
        second = self._spool.link(entry.path)
        try:
            self._objects.adopt(entry.object_key, second, if_absent=True)
        finally:
            self._spool.discard(second)
        instance = StoredInstance(
            sop_instance_uid=entry.arrival.sop_instance_uid,
            sop_class_uid=entry.arrival.sop_class_uid,
            series_instance_uid=entry.series_uid,
            transfer_syntax_uid=entry.arrival.transfer_syntax_uid,
            content_hash=entry.content_hash,
            object_key=entry.object_key,
            size=entry.size,
            received_at=entry.arrival.received_at,
            attributes=found.attributes,
        )
        return instance, document

    async def _commit(self, sorted_: _Sorted, stored: tuple[StoredInstance, ...], documents: dict[str, Any]) -> None:
        entries = [*sorted_.new, *sorted_.duplicates]
        first = entries[0].arrival
        tenant, study_uid = entries[0].study
        # Another one in each process: what the one before has left under its names is being cleaned up.
        names = [self._run, *(entry.arrival.id for entry in entries)]
        batch_id = hashlib.sha256("\n".join(names).encode()).hexdigest()[:32]
        headers = None
        if stored:
            headers = await asyncio.to_thread(
                self._put_headers, f"headers/{tenant}/{study_uid}/{batch_id}.json.gz", documents
            )
        now = self._clock()
        batch = repository.Indexed(
            id=batch_id,
            tenant=tenant,
            study_uid=study_uid,
            new=stored,
            arrivals={"stored": sorted_.new, "duplicate": sorted_.duplicates},
            headers=headers,
        )
        try:
            await self._write(batch, first, now)
        except repository.RacedError:
            # Surely rolled back. After any other failure it may stand, and the next start looks.
            if headers is not None:
                await asyncio.to_thread(self._objects.delete, headers.key)
                await asyncio.to_thread(self._spool.forget_headers, batch_id)
            raise
        metric.INDEXED.labels(outcome="stored").inc(len(sorted_.new))
        metric.INDEXED.labels(outcome="duplicate").inc(len(sorted_.duplicates))
        for entry in entries:
            await self._done(entry)
        if headers is not None:
            await asyncio.to_thread(self._spool.forget_headers, batch_id)
        _LOG.info(
            "instances indexed",
            study_uid=study_uid,
            tenant=tenant,
            node=first.source.node,
            association=first.association_id,
            instances=len(stored),
            duplicate=len(sorted_.duplicates),
        )

    async def _write(self, batch: repository.Indexed, first: Arrival, now: datetime) -> None:
        due_at = now + timedelta(seconds=self._settings.quiet_seconds)
        async with self._database.transaction() as tx:
            await repository.index(tx, batch, now=now, due_at=due_at)
            if batch.headers is None:
                return
            shared = shared_attributes([each.attributes for each in batch.new])
            event = InstancesStored(
                study_instance_uid=batch.study_uid,
                source=first.source,
                association_id=first.association_id,
                attributes=shared,
                instances=tuple(
                    each.model_copy(
                        update={"attributes": {k: v for k, v in each.attributes.items() if k not in shared}}
                    )
                    for each in batch.new
                ),
                headers=batch.headers,
            )
            await self._outbox.emit(tx, event, subject=batch.study_uid, tenant=batch.tenant, site=first.source.site)

    def _put_headers(self, key: str, documents: dict[str, Any]) -> ObjectRef:
        data = gzip.compress(json.dumps({"instances": documents}, sort_keys=True).encode(), mtime=0)
        self._spool.note_headers(key)
        self._objects.put(key, data)
        return ObjectRef(key=key, sha256=hashlib.sha256(data).hexdigest(), size=len(data))

    async def _reject(self, entry: Entry) -> None:
        """Quarantine what was answered with a failure; the same verdict as before the answer."""
        objection = await asyncio.to_thread(_verdict, entry)
        if objection is None:
            # Only a newer release can find nothing wrong; the sender was told a failure, so nothing was promised.
            objection = Objection(identity.CANNOT_UNDERSTAND, "unreadable-dataset", "the release before refused it")
        await self._quarantine(entry, objection)

    async def _quarantine(self, entry: Entry, objection: Objection) -> None:
        async with self._database.transaction() as tx:
            repeated = await repository.quarantined(tx, entry, objection)
        if not repeated:
            await asyncio.to_thread(self._put_aside, entry)
            sop_uid = _valid(entry.arrival.sop_instance_uid)
            study_uid = _valid(entry.study_uid)
            async with self._database.transaction() as tx:
                added = await repository.put_aside(tx, entry, objection, study_uid, sop_uid)
                if added:
                    await self._outbox.emit(
                        tx,
                        InstanceQuarantined(
                            quarantine_id=entry.arrival.id,
                            reason=objection.reason,
                            detail=objection.detail,
                            study_instance_uid=study_uid,
                            sop_instance_uid=sop_uid,
                            source=entry.arrival.source,
                            size=entry.size,
                        ),
                        subject=study_uid or entry.arrival.id,
                        tenant=entry.arrival.tenant,
                        site=entry.arrival.source.site,
                    )
                mine = added or await repository.quarantine_has(tx, entry.arrival.id)
                if not mine:
                    # The same bytes came twice at once, and the other was first.
                    await repository.quarantined(tx, entry, objection)
            if not mine:
                await asyncio.to_thread(self._objects.delete, entry.quarantine_key)
        # With ack=object-store it may be there under the key of an object that was never indexed.
        if objection.reason == "content-conflict":
            await asyncio.to_thread(self._objects.delete, entry.object_key)
        metric.INDEXED.labels(outcome="quarantined").inc()
        say = _LOG.error if objection.reason == "content-conflict" else _LOG.warning
        say(
            "instance quarantined",
            reason=objection.reason,
            advice="see GET /v1/ingest/quarantine",
            key=entry.quarantine_key,
            node=entry.arrival.source.node,
            association=entry.arrival.association_id,
        )
        await self._done(entry)

    def _put_aside(self, entry: Entry) -> None:
        second = self._spool.link(entry.path)
        try:
            self._objects.adopt(entry.quarantine_key, second, if_absent=True)
        finally:
            self._spool.discard(second)

    async def _done(self, entry: Entry) -> None:
        await asyncio.to_thread(self._spool.discard, entry.path)
        self._work.indexed(entry.arrival.id)


def shared_attributes(all_attributes: list[Attributes]) -> Attributes:
    """Give the attributes that all of them have with the same value."""
    first, *others = all_attributes
    return {key: value for key, value in first.items() if all(other.get(key) == value for other in others)}


def _verdict(entry: Entry) -> Objection | None:
    with entry.path.open("rb") as file:
        part10.decode(file)
        return examine(entry.arrival, file)[1]


def _valid(text: str) -> str | None:
    return text if uid.is_valid(text) else None
