"""Turns spool entries into index rows, objects and events: batches of one study each, many in one transaction."""

import asyncio
import hashlib
import itertools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.definition import Definition
from contracts.fact import ObjectRef
from contracts.instances import InstancesStored
from libs.clock import Clock
from libs.dicom.header import UnreadableDatasetError
from libs.messaging.outbox import Outbox
from libs.storage.database import Database
from libs.storage.objects import ObjectStore, StoreFullError, StoreUnavailableError
from libs.telemetry import log, trace
from services.ingest import identity, metric, repository
from services.ingest.arrival import Entry
from services.ingest.aside import Aside
from services.ingest.contest import Contest
from services.ingest.evidence import Patience
from services.ingest.flagging import Flagging, Said
from services.ingest.gathering import Batch, Gathering, Stride
from services.ingest.identity import Objection
from services.ingest.leftovers import Leftovers
from services.ingest.preparation import Prepared, header_document, prepare, shared_attributes, without
from services.ingest.settings import IngestSettings
from services.ingest.sorting import Sorted, sort_out, strays
from services.ingest.spool import Note, Spool
from services.ingest.work import Work

_LOG = log.get(__name__)
_TRACER = trace.tracer(__name__)
#: What is expected to mend itself: the entries stay in the spool and are tried again.
_PASSING = (StoreUnavailableError, StoreFullError, SQLAlchemyError, OSError, repository.RacedError)
_FIRST_WAIT = 0.1
_LONGEST_WAIT = 30.0
#: After so many failures by a defect a batch goes on in halves, and so on: a bad entry soon holds up no other, and a
#: fault that has passed meanwhile does not make an event of each instance.
_TOGETHER = 3
#: One prepares while the other one's transaction waits for the disk.
_WORKERS = 2
#: Entries of the first transaction, which is soon committed on any disk.
_FIRST = 25
#: Headers that are read before others have a turn.
_SLICE = 8
#: Entries of one transaction: it holds the database for some hundredths of a second.
_ROUND = 500
#: Seconds from taking entries to their commit; where that takes longer, the next are fewer.
_SOON = 2.0


class _UnreadableError(Exception):
    """Some entries have headers that can't be read behind their identifiers."""

    def __init__(self, entries: list[tuple[Entry, UnreadableDatasetError]]) -> None:
        super().__init__(f"{len(entries)} entries cannot be read")
        self.entries = entries


@dataclass
class _Part:
    """A batch on its way into the index. Its header document is noted together with those of its round."""

    batch: Batch
    sorted: Sorted
    prepared: list[Prepared]
    id: str
    headers: ObjectRef | None = None
    note: Note | None = None
    began: int = 0


class Indexer:
    """Gathers entries into batches, and indexes all batches that are ready together.

    Parameters
    ----------
    run
        Name of this process, never used before.
    definition
        Gives the network definition in force.
    patience
        Gives how long a study waits for more, by the definition in force.
    changed
        Called when batches were indexed: a study may have another time at which it is due.
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
        definition: Callable[[], Definition | None],
        patience: Callable[[], Patience],
        clock: Clock,
        changed: Callable[[], None],
    ) -> None:
        self._database = database
        self._objects = objects
        self._spool = spool
        self._work = work
        self._outbox = outbox
        self._run = run
        self._attempts = itertools.count()
        self._patience = patience
        self._clock = clock
        self._changed = changed
        self._loop = asyncio.get_running_loop()
        self._aside = Aside(database, objects, spool, outbox)
        self._leftovers = Leftovers(database, objects, spool)
        self._flagging = Flagging(outbox, definition=definition, clock=clock)
        self._contest = Contest(
            database,
            objects,
            spool,
            self._aside,
            outbox,
            self._flagging,
            self._leftovers,
            definition=definition,
            patience=patience,
            clock=clock,
            name=self._name,
        )
        self._submitted: deque[tuple[Entry, float]] = deque()
        self._size = settings.batch_size
        #: Whether a worker will look at what is submitted without being woken: it has been, or soon looks by itself.
        self._looks = False
        self._gathering = Gathering(
            size=settings.batch_size, linger=settings.linger_seconds, longest=settings.longest_linger_seconds
        )
        #: Nodes of which was said that studies come back from them; each is said once in a process.
        self._returning: set[str] = set()
        self._stride = Stride(first=_FIRST, least=settings.batch_size, most=_ROUND, soon=_SOON)
        self._early: asyncio.Task[None] | None = None
        self._came = asyncio.Event()
        self._turn = asyncio.Lock()
        #: Why the last batch failed; None after one that did not.
        self.trouble: str | None = None

    def submit(self, entry: Entry) -> None:
        """Take an entry, from any thread."""
        self._submitted.append((entry, self._loop.time()))
        if self._looks and len(self._submitted) % self._size:
            return
        self._looks = True
        try:
            self._loop.call_soon_threadsafe(self._came.set)
        except RuntimeError:
            # The process is ending. The entry is durable and is found at the next start.
            _LOG.info("entry left in the spool until the next start", association=entry.arrival.association_id)

    @asynccontextmanager
    async def meanwhile(self) -> AsyncIterator[None]:
        """Index what is submitted while the block runs, before `run` does.

        A large spool takes long to read; should the process be killed before that, something is done all the same.
        """
        await self._leftovers.look()
        over = asyncio.Event()
        self._early = asyncio.ensure_future(self._work_off(over))
        try:
            yield
        finally:
            # It ends after the transaction that it is at, and nobody waits for that.
            over.set()
            self._came.set()

    async def run(self) -> None:
        """Index until cancelled."""
        never = asyncio.Event()
        async with asyncio.TaskGroup() as workers:
            workers.create_task(self._leftovers.run())
            for _ in range(_WORKERS):
                workers.create_task(self._work_off(never))

    async def _work_off(self, over: asyncio.Event) -> None:
        while batches := await self._next(over):
            began = self._loop.time()
            count = sum(len(batch.entries) for batch in batches)
            try:
                await self._index(batches)
            except _PASSING as error:
                self._again(batches, error, expected=True)
            except Exception as error:  # noqa: BLE001 (one batch must not stop the others; it is kept and tried again)
                self._again(batches, error, expected=False)
            else:
                self.trouble = None
                self._stride.took(count, self._loop.time() - began)
                self._changed()

    async def _next(self, over: asyncio.Event) -> list[Batch]:
        """Wait for batches, none when it is over; what comes while all workers are busy is gathered meanwhile."""
        async with self._turn:
            while True:
                self._came.clear()
                self._looks = False
                while self._submitted:
                    self._gathering.add(*self._submitted.popleft())
                now = self._loop.time()
                if over.is_set():
                    # Another worker may have to be woken by what woke this one.
                    self._came.set()
                    return []
                batches = self._gathering.take(now, self._stride.size)
                if batches:
                    return batches
                # What comes meanwhile is not due before what is there, so it need not wake anyone.
                due = self._gathering.next()
                self._looks = due is not None
                # Not `wait_for`: on Python 3.11 it swallows a cancellation that comes together with the wake-up.
                with suppress(TimeoutError):
                    async with asyncio.timeout_at(due):
                        await self._came.wait()

    def _again(self, batches: Sequence[Batch], error: Exception, *, expected: bool) -> None:
        safe = str(error) if getattr(type(error), "safe_to_log", False) else type(error).__name__
        metric.FAILURES.labels(kind="index" if expected else "alarm").inc()
        if expected:
            self.trouble = safe
        for batch in batches:
            if not batch.entries:
                # It went well, and another one of its round did not.
                continue
            batch.attempt += 1
            wait = min(_LONGEST_WAIT, _FIRST_WAIT * 2 ** min(batch.attempt, 16))
            said: dict[str, Any] = {"instances": len(batch.entries), "attempt": batch.attempt, "delay": wait}
            if expected:
                _LOG.warning("batch not indexed, kept in the spool and tried again", reason=safe, **said)
            else:
                _LOG.error("batch not indexed by a defect, kept in the spool and tried again", exc_info=error, **said)
            parts = [batch]
            if not expected and batch.attempt >= _TOGETHER and len(batch.entries) > 1:
                middle = len(batch.entries) // 2
                parts = [Batch(half, _TOGETHER - 1) for half in (batch.entries[:middle], batch.entries[middle:])]
            for part in parts:
                self._loop.call_later(wait, self._retry, part)

    def _retry(self, batch: Batch) -> None:
        self._gathering.again(batch)
        self._came.set()

    async def _index(self, batches: Sequence[Batch]) -> None:
        if not batches[0].entries[0].accepted:
            for entry in batches[0].entries:
                await self._aside.reject(entry)
                self._work.indexed(entry.arrival.id)
            return
        began = time.time_ns()
        async with self._database.reading() as tx:
            known = await repository.known(
                tx,
                ((each.arrival.tenant, each.arrival.sop_instance_uid) for batch in batches for each in batch.entries),
            )
        parts = [_Part(batch, sort_out(batch.entries, known), [], self._name(), began=began) for batch in batches]
        try:
            await self._enter(parts)
        except _UnreadableError as found:
            for entry, error in found.entries:
                await self._put_aside(batches, entry, error)
            if left := [batch for batch in batches if batch.entries]:
                await self._index(left)
            return
        for part in parts:
            self._told(part)
            # Should what follows fail, it alone is tried again.
            part.batch.entries = [entry for entry, _ in part.sorted.conflicts]
        await self._settle(parts)

    async def _enter(self, parts: Sequence[_Part]) -> None:
        """Bring batches into the index, and what is new into the object store. Raises _UnreadableError: none is."""
        try:
            await self._prepare(parts)
            await asyncio.to_thread(self._publish, parts)
            await self._write(parts)
            await asyncio.to_thread(self._tidy, parts)
        except Exception:
            # Committed or not: the tables know it, now or once they can be asked.
            for note in _notes(parts):
                self._leftovers.leave(note)
            raise

    async def _settle(self, parts: Sequence[_Part]) -> None:
        """Decide on what contradicts what is kept, one by one."""
        for part in parts:
            while part.batch.entries:
                entry = part.batch.entries[0]
                try:
                    await self._contest.settle(entry)
                except UnreadableDatasetError as error:
                    await self._put_aside([part.batch], entry, error)
                else:
                    self._work.indexed(part.batch.entries.pop(0).arrival.id)

    async def _put_aside(self, batches: Sequence[Batch], entry: Entry, error: UnreadableDatasetError) -> None:
        """Quarantine what was answered with success: its identifiers were read, and more of it can't be."""
        await self._aside.put(entry, Objection(identity.SUCCESS, "unreadable-dataset", str(error)))
        for batch in batches:
            if entry in batch.entries:
                batch.entries.remove(entry)
        self._work.indexed(entry.arrival.id)

    def _name(self) -> str:
        # Another one for each attempt: what one before has left under its names is being cleaned up.
        return hashlib.sha256(f"{self._run}\n{next(self._attempts)}".encode()).hexdigest()[:32]

    async def _prepare(self, parts: Sequence[_Part]) -> None:
        """Read the headers of what is new, a few at a time: in a thread it would take turns with this one for each."""
        unreadable: list[tuple[Entry, UnreadableDatasetError]] = []
        new = [(part, entry) for part in parts for entry in part.sorted.new]
        for number, (part, entry) in enumerate(new):
            if number % _SLICE == 0:
                await asyncio.sleep(0)
            try:
                part.prepared.append(prepare(entry))
            except UnreadableDatasetError as error:
                unreadable.append((entry, error))
        if unreadable:
            raise _UnreadableError(unreadable)

    def _publish(self, parts: Sequence[_Part]) -> None:
        """Put the new objects and their header documents where every replica reads them; the entries stay."""
        waiting = [entry for part in parts for entry in part.sorted.new if not entry.uploaded]
        self._objects.keep({entry.object_key: entry.path for entry in waiting})
        headed = [part for part in parts if part.prepared]
        if not headed:
            return
        if any(part.batch.attempt for part in headed):
            # Else each attempt of a long outage would leave a note.
            self._objects.check()
        keys = [f"headers/{'/'.join(part.batch.entries[0].study)}/{part.id}.json.gz" for part in headed]
        note = self._spool.note_headers(keys)
        for part in headed:
            part.note = note
        for part, key in zip(headed, keys, strict=True):
            data = header_document(part.prepared)
            self._objects.put(key, data)
            part.headers = ObjectRef(key=key, sha256=hashlib.sha256(data).hexdigest(), size=len(data))

    async def _write(self, parts: Sequence[_Part]) -> None:
        indexed = [
            repository.Indexed(
                id=part.id,
                tenant=part.batch.entries[0].arrival.tenant,
                study_uid=part.batch.entries[0].study_uid,
                new=tuple(each.instance for each in part.prepared),
                arrivals={"stored": part.sorted.new, "duplicate": [entry for entry, _ in part.sorted.duplicates]},
                headers=part.headers,
            )
            for part in parts
            if part.sorted.new or part.sorted.duplicates
        ]
        if not indexed:
            return
        now = self._clock()
        said: list[Said] = []
        try:
            async with self._database.transaction() as tx:
                last = await repository.index(tx, indexed, now=now, patience=self._patience())
                again = [part for part in parts if part.sorted.duplicates]
                first = await repository.first_nodes(tx, {part.batch.entries[0].study for part in again})
                for part in parts:
                    if part.headers is not None:
                        await self._emit(tx, part, part.headers, last[part.batch.entries[0].study])
                        said += await self._note_patients(tx, part)
        except repository.RacedError:
            for part in parts:
                # Should another replica have taken this one for dead, and cleaned up after it.
                part.batch.entries = [replace(entry, uploaded=False) for entry in part.batch.entries]
            raise
        self._flagging.remember(said)
        for part in again:
            self._tell_return(part, first[part.batch.entries[0].study])

    def _tell_return(self, part: _Part, first_node: str) -> None:
        """Say it where a study comes again from another node than first: it may go round between sites."""
        came = part.batch.entries[0].arrival
        node = came.source.node
        if node == first_node:
            return
        metric.RETURNED.labels(node=node).inc(len(part.sorted.duplicates))
        if node not in self._returning:
            self._returning.add(node)
            _LOG.warning(
                "studies come back that came from another node first: nothing of them is kept twice or sent on again; "
                "where sites send them round, leave out in a rule what comes from that node",
                study_uid=part.batch.entries[0].study_uid,
                tenant=came.tenant,
                node=node,
                kind="alarm",
            )

    async def _note_patients(self, tx: AsyncSession, part: _Part) -> list[Said]:
        first = part.batch.entries[0]
        source = first.arrival.source
        attributes = (each.instance.attributes for each in part.prepared)
        return await self._flagging.note(tx, first.study, (source.site, source.node), attributes)

    async def _emit(self, tx: AsyncSession, part: _Part, headers: ObjectRef, last_version: int) -> None:
        first = part.batch.entries[0].arrival
        tenant, study_uid = part.batch.entries[0].study
        with _TRACER.start_as_current_span(
            "index batch",
            context=trace.study_context(tenant, study_uid),
            links=[link for entry in part.sorted.new for link in trace.link_to(entry.arrival.traceparent)],
            start_time=part.began,
            record_exception=False,
        ) as span:
            span.set_attribute("kivuko.instances", len(part.batch.entries))
            span.set_attribute("kivuko.association", first.association_id)
            shared = shared_attributes([each.instance.attributes for each in part.prepared])
            event = InstancesStored(
                study_instance_uid=study_uid,
                source=first.source,
                association_id=first.association_id,
                attributes=shared,
                instances=tuple(without(each.instance, shared) for each in part.prepared),
                headers=headers,
                after_version=last_version,
            )
            await self._outbox.emit(tx, event, subject=study_uid, tenant=tenant, site=first.source.site)

    def _tidy(self, parts: Sequence[_Part]) -> None:
        """Remove what the commit has made needless; an entry goes last, as it is what a repair starts from."""
        for part in parts:
            for key in strays(part.sorted.duplicates):
                self._objects.delete(key)
            for entry in (*part.sorted.new, *(entry for entry, _ in part.sorted.duplicates)):
                self._spool.discard(entry.path)
        for note in _notes(parts):
            self._spool.forget_headers(note)

    def _told(self, part: _Part) -> None:
        new, duplicates = part.sorted.new, [entry for entry, _ in part.sorted.duplicates]
        for entry in (*new, *duplicates):
            self._work.indexed(entry.arrival.id)
        metric.INDEXED.labels(outcome="stored").inc(len(new))
        metric.INDEXED.labels(outcome="duplicate").inc(len(duplicates))
        first = part.batch.entries[0].arrival
        if new or duplicates:
            _LOG.info(
                "instances indexed",
                study_uid=part.batch.entries[0].study_uid,
                tenant=first.tenant,
                node=first.source.node,
                association=first.association_id,
                instances=len(new),
                duplicate=len(duplicates),
            )


def _notes(parts: Sequence[_Part]) -> set[Note]:
    return {part.note for part in parts if part.note is not None}
