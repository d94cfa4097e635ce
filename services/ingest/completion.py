"""Says when a study is complete, and writes its manifest: after a quiet time, and never while work of it is in hand."""

import asyncio
import hashlib
from datetime import timedelta

from sqlalchemy.exc import SQLAlchemyError

from contracts.fact import Fact, ObjectRef
from contracts.manifest import Manifest, set_hash
from contracts.study import StudyAmended, StudyCompleted
from libs.clock import Clock
from libs.messaging.outbox import Outbox
from libs.storage.database import Database
from libs.storage.objects import ObjectStore, StoreFullError, StoreUnavailableError
from libs.telemetry import log, trace
from services.ingest import metric, repository
from services.ingest.assembly import study_attributes
from services.ingest.repository import Due, Version
from services.ingest.settings import IngestSettings
from services.ingest.work import Work

_LOG = log.get(__name__)
_TRACER = trace.tracer(__name__)
#: What is expected to mend itself.
_PASSING = (SQLAlchemyError, StoreUnavailableError, StoreFullError, OSError)
_AT_ONCE = 10
#: Other replicas' studies fall due without a word to this one.
_LONGEST_WAIT = 5.0
#: What a replica said it has in hand counts for so long after it was last heard.
SILENT_AFTER = timedelta(minutes=5)


class Completion:
    """Watches the studies that are due."""

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        work: Work,
        outbox: Outbox,
        *,
        replica: str,
        settings: IngestSettings,
        clock: Clock,
    ) -> None:
        self._database = database
        self._objects = objects
        self._work = work
        self._outbox = outbox
        self._replica = replica
        self._quiet = timedelta(seconds=settings.quiet_seconds)
        self._clock = clock
        self._wake = asyncio.Event()

    def changed(self) -> None:
        """Look again: a batch was indexed. From the event loop only."""
        self._wake.set()

    async def run(self) -> None:
        """Complete studies until cancelled."""
        while True:
            self._wake.clear()
            try:
                wait = await self._round()
            except _PASSING as error:
                metric.FAILURES.labels(kind="completion").inc()
                reason = str(error) if getattr(type(error), "safe_to_log", False) else type(error).__name__
                _LOG.warning("studies not completed, tried again", reason=reason, delay=_LONGEST_WAIT)
                wait = _LONGEST_WAIT
            try:
                # Not `wait_for`: on Python 3.11 it swallows a cancellation that comes together with the wake-up.
                async with asyncio.timeout(wait):
                    await self._wake.wait()
            except TimeoutError:
                continue

    async def _round(self) -> float | None:
        """Complete what is due; give the seconds until there may be more, None if nothing is known to come."""
        async with self._database.reading() as tx:
            waiting = await repository.next_due(tx)
        now = self._clock()
        next_due = None if waiting is None else waiting[0]
        if waiting is not None and waiting[1] > now + self._quiet + repository.CLOCKS_DIFFER:
            async with self._database.transaction() as tx:
                await repository.follow_clock(tx, now + self._quiet)
            return 0
        if next_due is not None and next_due <= now:
            async with self._database.transaction() as tx:
                taken = await repository.lease_due(
                    tx, self._replica, now=now, until=repository.lease_end(now), limit=_AT_ONCE
                )
            for due in taken:
                await self._complete_or_say_why(due)
            if taken:
                return 0
            # Another replica has them; it may die.
            return _LONGEST_WAIT
        longest = None if self._database.dialect == "sqlite" else _LONGEST_WAIT
        if next_due is None:
            return longest
        seconds = (next_due - now).total_seconds()
        return seconds if longest is None else min(seconds, longest)

    async def _complete_or_say_why(self, due: Due) -> None:
        try:
            await self._complete(due)
        except _PASSING:
            raise
        except Exception as error:  # noqa: BLE001 (one study must not hold up the others; it is tried again)
            metric.FAILURES.labels(kind="alarm").inc()
            _LOG.error("study not completed by a defect", study_uid=due.study_uid, tenant=due.tenant, exc_info=error)
            async with self._database.transaction() as tx:
                await repository.postpone(tx, due.id, self._clock() + self._quiet)

    async def _complete(self, due: Due) -> None:
        now = self._clock()
        if await self._in_hand(due):
            async with self._database.transaction() as tx:
                await repository.postpone(tx, due.id, now + self._quiet / 5)
            return
        async with self._database.reading() as tx:
            instances = await repository.stored_instances(tx, due.id)
        manifest = Manifest(
            tenant=due.tenant,
            study_instance_uid=due.study_uid,
            version=due.version + 1,
            content_hash=set_hash((each.sop_instance_uid, each.content_hash) for each in instances),
            attributes=study_attributes(instances),
            instances=tuple(instances),
        )
        data = manifest.model_dump_json().encode()
        digest = hashlib.sha256(data).hexdigest()
        # Named by its content too: an attempt that was overtaken never replaces the manifest of one that stands.
        key = f"manifests/{due.tenant}/{due.study_uid}/{manifest.version}-{digest[:16]}.json"
        await asyncio.to_thread(self._objects.put, key, data)
        version = Version(manifest.version, len(instances), manifest.content_hash, key, manifest.attributes, now)
        event = self._event(due, manifest, ObjectRef(key=key, sha256=digest, size=len(data)))
        name = "completed" if manifest.version == 1 else "amended"
        with _TRACER.start_as_current_span(
            f"study {name}", context=trace.study_context(due.tenant, due.study_uid), record_exception=False
        ):
            async with self._database.transaction() as tx:
                stands = await repository.record_version(tx, due, version, self._replica)
                if stands:
                    await self._outbox.emit(tx, event, subject=due.study_uid, tenant=due.tenant, site=due.source.site)
        if not stands:
            # Instances arrived meanwhile. Its successor has another hash, unless it is the very same version.
            async with self._database.transaction() as tx:
                named = await repository.names_manifest(tx, due.id, key)
                await repository.postpone(tx, due.id, now + self._quiet)
            if not named:
                await asyncio.to_thread(self._objects.delete, key)
            return
        metric.STUDIES.labels(event=name).inc()
        if manifest.version == 1:
            trace.record_study_root(due.tenant, due.study_uid, due.first_arrival, now)
        _LOG.info(
            "study completed" if manifest.version == 1 else "study amended",
            study_uid=due.study_uid,
            tenant=due.tenant,
            version=manifest.version,
            instances=len(instances),
        )

    async def _in_hand(self, due: Due) -> bool:
        if self._work.has((due.tenant, due.study_uid)):
            return True
        async with self._database.reading() as tx:
            return await repository.is_open_elsewhere(tx, due, self._replica, self._clock() - SILENT_AFTER)

    def _event(self, due: Due, manifest: Manifest, reference: ObjectRef) -> Fact:
        facts = {
            "study_instance_uid": due.study_uid,
            "version": manifest.version,
            "instance_count": len(manifest.instances),
            "series_count": len({each.series_instance_uid for each in manifest.instances}),
            "content_hash": manifest.content_hash,
            "manifest": reference,
            "first_arrival": due.first_arrival,
            "last_arrival": due.last_arrival,
            "source": due.source,
            "sites": due.sites,
            "attributes": manifest.attributes,
            "evidence": (f"no arrival for {self._quiet.total_seconds():g} s", "no association of it open"),
        }
        if manifest.version == 1:
            return StudyCompleted.model_validate(facts)
        return StudyAmended.model_validate({**facts, "added_count": len(manifest.instances) - due.version_count})
