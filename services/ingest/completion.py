"""Says when a study is complete, and writes its manifest: by evidence, and never while work of it is in hand."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy.exc import SQLAlchemyError

from contracts.fact import Fact, ObjectRef
from contracts.study import StudyAmended, StudyCompleted
from libs.clock import Clock
from libs.messaging.outbox import Outbox
from libs.storage.database import Database
from libs.storage.objects import ObjectMissingError, ObjectStore, StoreFullError, StoreUnavailableError
from libs.telemetry import log, trace
from services.ingest import manifest, metric, procedures, versions
from services.ingest.evidence import Decision, Known, Patience, decide
from services.ingest.manifest import Difference, Draft
from services.ingest.performed import NOTHING
from services.ingest.repository import CLOCKS_DIFFER
from services.ingest.versions import Due, Version
from services.ingest.work import Study, Work

_LOG = log.get(__name__)
_TRACER = trace.tracer(__name__)
#: What is expected to mend itself.
_PASSING = (SQLAlchemyError, StoreUnavailableError, StoreFullError, OSError)
_AT_ONCE: Final = 100
#: Instances that are read and written together.
_PAGE: Final = 500
#: Other replicas' studies fall due without a word to this one, seconds.
_LONGEST_WAIT: Final = 5.0
#: A study in hand is looked at again after a share of the time that it has been, so that many cost little.
_AGAIN_SHARE: Final = 0.25
_AGAIN_AT_MOST: Final = timedelta(minutes=5)
#: What a replica said it has in hand counts for so long after it was last heard.
SILENT_AFTER: Final = timedelta(minutes=5)


class Completion:
    """Watches the studies that are due.

    Parameters
    ----------
    barrier
        Returns when everything that was acknowledged before it was called is known to `work`.
    patience
        Gives how long to wait, by the definition in force.
    noise
        Gives so many random bytes.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        work: Work,
        outbox: Outbox,
        *,
        replica: str,
        barrier: Callable[[], Awaitable[None]],
        patience: Callable[[], Patience],
        clock: Clock,
        noise: Callable[[int], bytes],
    ) -> None:
        self._database = database
        self._objects = objects
        self._work = work
        self._outbox = outbox
        self._replica = replica
        self._barrier = barrier
        self._patience = patience
        self._clock = clock
        self._noise = noise
        self._listening_since = clock()
        self._wake = asyncio.Event()
        #: When it wakes by itself; None while nothing is known to come.
        self._next: datetime | None = None
        database.on_commit(lambda session: self._wake.set() if session.info.get(procedures.LEARNED) else None)

    def changed(self) -> None:
        """Look again: a batch was indexed. From the event loop only."""
        # Its study is due no sooner than that; an earlier waking would find nothing.
        if self._next is None or self._next > self._clock() + self._patience().soonest:
            self._wake.set()

    async def run(self) -> None:
        """Complete studies until cancelled."""
        while True:
            self._wake.clear()
            self._next = None
            try:
                wait = await self.look()
            except _PASSING as error:
                metric.FAILURES.labels(kind="completion").inc()
                reason = str(error) if getattr(type(error), "safe_to_log", False) else type(error).__name__
                _LOG.warning("studies not completed, tried again", reason=reason, delay=_LONGEST_WAIT)
                wait = _LONGEST_WAIT
            if wait is not None:
                self._next = self._clock() + timedelta(seconds=wait)
            try:
                # Not `wait_for`: on Python 3.11 it swallows a cancellation that comes together with the wake-up.
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def look(self) -> float | None:
        """Complete what is due; give the seconds until there may be more, None if nothing is known to come."""
        await self._note_broken()
        async with self._database.reading() as tx:
            waiting = await versions.next_due(tx)
        now = self._clock()
        longest = None if self._database.dialect == "sqlite" else _LONGEST_WAIT
        if waiting is None:
            return longest
        first, last = waiting
        latest = now + self._patience().longest
        if last > latest + CLOCKS_DIFFER:
            async with self._database.transaction() as tx:
                await versions.follow_clock(tx, latest)
            return 0
        if first > now:
            seconds = (first - now).total_seconds()
            return seconds if longest is None else min(seconds, longest)
        async with self._database.transaction() as tx:
            attempt = self._noise(8).hex()
            taken = await versions.lease_due(tx, self._replica, attempt, now=now, limit=_AT_ONCE)
        if not taken:
            # Another replica has them; it may die.
            return _LONGEST_WAIT
        await self._decide(await self._clear(taken, attempt))
        return 0

    async def _clear(self, taken: list[Due], attempt: str) -> list[Due]:
        """Remove manifests that attempts before have left, and only then forget them; give what is still leased."""
        left = {due.id: _key(due, due.left) for due in taken if due.left is not None}
        if not left:
            return taken
        for key in left.values():
            await asyncio.to_thread(self._objects.delete, key)
        async with self._database.transaction() as tx:
            leased = await versions.attempted(tx, left, self._replica, attempt)
        return [due for due in taken if due.left is None or due.id in leased]

    async def _note_broken(self) -> None:
        # Whether or not something is due here: another replica may be the one that decides.
        broken = self._work.broken()
        if broken:
            async with self._database.transaction() as tx:
                await versions.note_broken(tx, broken)
            self._work.noted(broken)

    async def _decide(self, taken: list[Due]) -> None:
        """Ask of each study whether it is complete."""
        self._work.let_go(self._clock() - self._patience().at_most)
        await self._barrier()
        held = await self._in_hand({due.study for due in taken})
        free = [due for due in taken if due.study not in held]
        async with self._database.reading() as tx:
            tallies = await versions.tallies(tx, [due.id for due in free])
            said = await procedures.performed_of(tx, [due.id for due in free])
        now, patience = self._clock(), self._patience()
        until = {due.id: self._again(due, now) for due in taken if due.study in held}
        decisions: list[tuple[Due, Decision]] = []
        for due in free:
            known = Known(
                last_arrival=due.last_arrival,
                pending_since=due.pending_since,
                listening_since=self._listening_since,
                broken_at=due.broken_at,
                announced=due.announced,
                series=tallies[due.id],
                performed=said.get(due.id, NOTHING),
            )
            decision = decide(known, patience, now)
            if decision.until is None:
                decisions.append((due, decision))
            else:
                until[due.id] = decision.until
        if until:
            async with self._database.transaction() as tx:
                await versions.postpone(tx, until, self._replica)
        for due, decision in decisions:
            await self._complete_or_say_why(due, decision)

    def _again(self, due: Due, now: datetime) -> datetime:
        patience = self._patience()
        waited = max(timedelta(0), now - due.last_arrival) * _AGAIN_SHARE
        return now + min(max(waited, patience.quiet / 5), patience.longest, _AGAIN_AT_MOST)

    async def _complete_or_say_why(self, due: Due, decision: Decision) -> None:
        try:
            await self._complete(due, decision)
        except _PASSING:
            raise
        except Exception as error:  # noqa: BLE001 (one study must not hold up the others; it is tried again)
            metric.FAILURES.labels(kind="alarm").inc()
            _LOG.error("study not completed by a defect", study_uid=due.study_uid, tenant=due.tenant, exc_info=error)
            await self._give_up(due)

    async def _complete(self, due: Due, decision: Decision) -> None:
        before = await self._before(due)
        with Draft(due.tenant, due.study_uid, due.version + 1) as draft:
            await self._fill(draft, due)
            changes = await asyncio.to_thread(draft.close, before)
            if not changes:
                await self._settle(due)
                return
            key = _key(due, due.attempt)
            await asyncio.to_thread(self._objects.put, key, draft.file())
            reference = ObjectRef(key=key, sha256=draft.digest, size=draft.size)
        # Writing took a while: what was acknowledged meanwhile is asked for once more. The version is of this time:
        # what is acknowledged while the database is waited for comes after it.
        at = self._clock()
        await self._barrier()
        if await self._in_hand({due.study}) or not await self._record(due, decision, draft, changes, reference, at):
            # Instances arrived meanwhile, or another replica took over: no version has this manifest.
            await self._give_up(due)
            return
        self._tell(due, decision, draft)

    async def _before(self, due: Due) -> Mapping[str, str]:
        """Read the contents of the version before; without it all is new, which is said aloud."""
        if due.manifest_key is None:
            return {}
        try:
            return await asyncio.to_thread(_contents, self._objects, due.manifest_key)
        except (ObjectMissingError, ValueError, KeyError) as error:
            metric.FAILURES.labels(kind="alarm").inc()
            _LOG.error(
                "manifest of the version before not readable: all instances count as added",
                study_uid=due.study_uid,
                tenant=due.tenant,
                key=due.manifest_key,
                reason=type(error).__name__,
                advice="restore the object from a backup of the object store",
            )
            return {}

    async def _fill(self, draft: Draft, due: Due) -> None:
        async with self._database.reading() as tx:
            ids = await versions.instance_ids(tx, due.id)
            for start in range(0, len(ids), _PAGE):
                rows = await versions.instance_rows(tx, ids[start : start + _PAGE])
                # Thousands of instances must not hold up the event loop.
                await asyncio.to_thread(lambda page: draft.add(versions.stored_instances(page)), rows)

    async def _record(
        self, due: Due, decision: Decision, draft: Draft, changes: Difference, reference: ObjectRef, at: datetime
    ) -> bool:
        number = due.version + 1
        version = Version(
            number,
            draft.count,
            draft.content_hash,
            reference.key,
            draft.attributes,
            decision.signs,
            decision.score,
            at,
        )
        event = _event(due, decision, draft, changes, reference)
        with _TRACER.start_as_current_span(
            f"study {_name(due)}", context=trace.study_context(due.tenant, due.study_uid), record_exception=False
        ):
            async with self._database.transaction() as tx:
                # Most of what came meanwhile is known by now, and need not become a version of its own.
                stands = not self._work.has(due.study) and await versions.record(tx, due, version, self._replica)
                if stands:
                    await self._outbox.emit(
                        tx, event, subject=due.study_uid, tenant=due.tenant, site=due.source.site, at=at
                    )
        return stands

    def _tell(self, due: Due, decision: Decision, draft: Draft) -> None:
        metric.STUDIES.labels(event=_name(due)).inc()
        said: dict[str, Any] = {"study_uid": due.study_uid, "tenant": due.tenant, "version": due.version + 1}
        if due.version == 0:
            trace.record_study_root(due.tenant, due.study_uid, due.first_arrival, self._clock())
        if due.version == 0:
            _LOG.info("study completed", instances=draft.count, **said)
        else:
            _LOG.info("study amended", instances=draft.count, **said)
        if decision.against:
            for sign in decision.against:
                metric.DOUBTS.labels(kind=sign.kind).inc()
            _LOG.warning(
                "study taken to be complete though something may be missing",
                reason="; ".join(sign.detail for sign in decision.against),
                advice="compare it with the modality, and send again what is missing: see docs/assembly.md",
                **said,
            )

    async def _settle(self, due: Due) -> None:
        """Nothing differs from the last version: it stands."""
        async with self._database.transaction() as tx:
            done = await versions.settle(tx, due, self._replica)
        if not done:
            await self._later(due)

    async def _give_up(self, due: Due) -> None:
        await asyncio.to_thread(self._objects.delete, _key(due, due.attempt))
        await self._later(due)

    async def _later(self, due: Due) -> None:
        async with self._database.transaction() as tx:
            await versions.postpone(tx, {due.id: self._clock() + self._patience().quiet}, self._replica)

    async def _in_hand(self, studies: set[Study]) -> set[Study]:
        here = {study for study in studies if self._work.has(study)}
        async with self._database.reading() as tx:
            return here | await versions.in_hand_elsewhere(
                tx, studies - here, self._replica, self._clock() - SILENT_AFTER
            )


def _contents(objects: ObjectStore, key: str) -> dict[str, str]:
    with objects.open(key) as file:
        return manifest.contents(file)


def _key(due: Due, attempt: str) -> str:
    # No two attempts share a key: one that was overtaken, or lost its lease, harms the manifest of none that stands.
    return f"manifests/{due.tenant}/{due.study_uid}/{due.version + 1}-{attempt}.json"


def _name(due: Due) -> str:
    return "completed" if due.version == 0 else "amended"


def _event(due: Due, decision: Decision, draft: Draft, changes: Difference, reference: ObjectRef) -> Fact:
    facts = {
        "study_instance_uid": due.study_uid,
        "version": due.version + 1,
        "instance_count": draft.count,
        "series_count": draft.series_count,
        "content_hash": draft.content_hash,
        "manifest": reference,
        "first_arrival": due.first_arrival,
        "last_arrival": due.last_arrival,
        "source": due.source,
        "sites": due.sites,
        "attributes": draft.attributes,
        "evidence": tuple(sign.detail for sign in decision.signs),
        "signs": decision.signs,
        "score": decision.score,
    }
    if due.version == 0:
        return StudyCompleted.model_validate(facts)
    return StudyAmended.model_validate({**facts, "added_count": len(changes), "replaced_count": len(changes.replaced)})
