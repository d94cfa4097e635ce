"""Settles what arrived under a SOP Instance UID that is kept with another content, one arrival at a time.

See `services.ingest.conflict` for what is decided. Every step may be done again: an arrival that the index has already
is only taken out of the spool.
"""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row, delete, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.definition import Definition, SameUid
from contracts.fact import ObjectRef
from contracts.instances import ConflictPolicy, InstanceConflicted, InstancesStored
from libs.clock import Clock
from libs.messaging.outbox import Outbox
from libs.storage.database import Database
from libs.storage.objects import ObjectStore
from libs.telemetry import log
from services.ingest import conflict, holding, identity, metric
from services.ingest.arrival import Entry
from services.ingest.aside import Aside
from services.ingest.conflict import Content, Outcome
from services.ingest.evidence import Patience
from services.ingest.flagging import Flagging
from services.ingest.identity import Objection
from services.ingest.leftovers import Leftovers
from services.ingest.models import batches, instances, quarantine, series, studies
from services.ingest.preparation import Prepared, header_document, prepare
from services.ingest.repository import RacedError, utc
from services.ingest.spool import Spool
from services.ingest.tally import Brought, Tally, of_batch
from services.ingest.versions import stored_instances

_LOG = log.get(__name__)
#: How an association is named by which a person lets an entry of the quarantine in; its id follows.
RELEASE: Final = "release-"
_OTHER_CONTENT: Final = "another content is kept under this SOP Instance UID, and the sender was told success"
_OTHER_STUDY: Final = (
    "another study has an instance of this SOP Instance UID, and the sender was told success: "
    "an instance never moves from one study to another by itself"
)


@dataclass(frozen=True)
class _Arrived:
    entry: Entry
    prepared: Prepared
    headers: ObjectRef
    batch_id: str


class Contest:
    """What the indexer hands conflicts to.

    Parameters
    ----------
    flagging
        Compares the patients of what takes the place of another content.
    leftovers
        Removes header documents that came to nothing.
    definition
        Gives the network definition in force.
    patience
        Gives how long a study waits for more.
    name
        Gives a name for a batch, never used before.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        spool: Spool,
        aside: Aside,
        outbox: Outbox,
        flagging: Flagging,
        leftovers: Leftovers,
        *,
        definition: Callable[[], Definition | None],
        patience: Callable[[], Patience],
        clock: Clock,
        name: Callable[[], str],
    ) -> None:
        self._database = database
        self._objects = objects
        self._spool = spool
        self._aside = aside
        self._outbox = outbox
        self._flagging = flagging
        self._leftovers = leftovers
        self._definition = definition
        self._patience = patience
        self._clock = clock
        self._name = name

    async def settle(self, entry: Entry) -> None:
        """Decide on an arrival; it is gone from the spool when this returns.

        Raises
        ------
        RacedError
            What is kept is not the same any more: look again what is known.
        """
        async with self._database.reading() as tx:
            done = await holding.is_indexed(tx, entry.arrival.id)
            old = await holding.kept(tx, entry.arrival.tenant, entry.arrival.sop_instance_uid)
            wanted = await self._wanted(tx, entry)
        if not done:
            if old is None:
                raise RacedError
            outcome = conflict.decide(_content(old), _arrived(entry), wanted)
            if outcome == "duplicate":
                raise RacedError
            if outcome == "superseded" and entry.arrival.association_id.startswith(RELEASE):
                # A person has seen both. That the clock was put back since the kept one came changes nothing.
                outcome = "new-version"
            await self._do(entry, old, outcome)
        await asyncio.to_thread(self._spool.discard, entry.path)

    async def _wanted(self, tx: AsyncSession, entry: Entry) -> SameUid:
        association = entry.arrival.association_id
        if association.startswith(RELEASE):
            released = select(quarantine.c.resolution).where(quarantine.c.id == association.removeprefix(RELEASE))
            resolution = await tx.scalar(released)
            if resolution and resolution.get("replace"):
                return "new-version"
        return conflict.policy(self._definition(), entry.arrival.source.node)

    async def _do(self, entry: Entry, old: Row[Any], outcome: Outcome) -> None:
        if outcome in ("new-version", "superseded"):
            await self._version(entry, old, outcome)
            return
        policy: ConflictPolicy = "keep-first" if outcome == "keep-first" else "quarantine"
        detail = _OTHER_CONTENT if old.study_uid == entry.study_uid else _OTHER_STUDY

        async def also(tx: AsyncSession, quarantine_id: str) -> None:
            await self._say(tx, entry, old, policy, quarantine_id)

        await self._aside.put(
            entry,
            Objection(identity.SUCCESS, "content-conflict", detail),
            state="kept-first" if outcome == "keep-first" else "open",
            also=also,
        )

    async def _version(self, entry: Entry, old: Row[Any], outcome: Outcome) -> None:
        prepared = await asyncio.to_thread(self._prepare, entry)
        if outcome == "superseded":
            # What is kept is newer: this content needs no header document.
            async with self._database.transaction() as tx:
                await self._lock(tx, old)
                await holding.keep_replaced(tx, old.study_id, _kept(prepared.instance), self._clock())
                await self._note(tx, entry, old)
        else:
            await self._take_place(entry, prepared, old)
        metric.INDEXED.labels(outcome="replaced").inc()

    async def _take_place(self, entry: Entry, prepared: Prepared, old: Row[Any]) -> None:
        batch_id = self._name()
        key = f"headers/{entry.arrival.tenant}/{entry.study_uid}/{batch_id}.json.gz"
        note = await asyncio.to_thread(self._spool.note_headers, [key])
        source = entry.arrival.source
        try:
            headers = await asyncio.to_thread(self._put_headers, key, prepared)
            arrived = _Arrived(entry, prepared, headers, batch_id)
            async with self._database.transaction() as tx:
                study = await self._lock(tx, old)
                await self._replace(tx, arrived, old, study, self._clock())
                patient = prepared.instance.attributes
                said = await self._flagging.note(tx, entry.study, (source.site, source.node), [patient])
                await self._note(tx, entry, old)
        except Exception:
            self._leftovers.leave(note)
            raise
        self._flagging.remember(said)
        await asyncio.to_thread(self._spool.forget_headers, note)

    async def _note(self, tx: AsyncSession, entry: Entry, old: Row[Any]) -> None:
        await holding.note_arrival(tx, entry, old.study_id, "replaced")
        await self._say(tx, entry, old, "new-version", None)

    def _prepare(self, entry: Entry) -> Prepared:
        prepared = prepare(entry)
        self._objects.keep({entry.object_key: entry.path})
        return prepared

    def _put_headers(self, key: str, prepared: Prepared) -> ObjectRef:
        data = header_document([prepared])
        self._objects.put(key, data)
        return ObjectRef(key=key, sha256=hashlib.sha256(data).hexdigest(), size=len(data))

    async def _lock(self, tx: AsyncSession, old: Row[Any]) -> Row[Any]:
        study = (await tx.execute(select(studies).where(studies.c.id == old.study_id).with_for_update())).one()
        # Not by its hash: another replica may have put the same content back, in another object.
        still = await tx.scalar(select(instances.c.object_key).where(instances.c.id == old.id).with_for_update())
        if still != old.object_key:
            raise RacedError
        return study

    async def _replace(
        self, tx: AsyncSession, arrived: _Arrived, old: Row[Any], study: Row[Any], now: datetime
    ) -> None:
        new, arrival = arrived.prepared.instance, arrived.entry.arrival
        await holding.keep_replaced(
            tx,
            old.study_id,
            {name: getattr(old, name) for name in ("sop_uid", "content_hash", "object_key", "size")}
            | {"received_at": utc(old.received_at)},
            now,
        )
        await tx.execute(
            batches.insert().values(
                id=arrived.batch_id,
                study_id=old.study_id,
                headers_key=arrived.headers.key,
                headers_hash=arrived.headers.sha256,
                headers_size=arrived.headers.size,
                indexed_at=now,
            )
        )
        await tx.execute(
            update(instances)
            .where(instances.c.id == old.id)
            .values(
                sop_class_uid=new.sop_class_uid,
                series_uid=new.series_instance_uid,
                transfer_syntax_uid=new.transfer_syntax_uid,
                content_hash=new.content_hash,
                object_key=new.object_key,
                size=new.size,
                received_at=new.received_at,
                batch_id=arrived.batch_id,
                attributes=new.attributes,
            )
        )
        brought = of_batch([new])
        await _count(tx, old, brought)
        modalities = brought.modalities(study.modalities or ())
        since = utc(study.pending_since) if study.pending_since else new.received_at
        wait = self._patience().first_look(modalities, count=study.instance_count, announced=study.announced)
        await tx.execute(
            update(studies)
            .where(studies.c.id == old.study_id)
            .values(
                last_arrival=max(utc(study.last_arrival), new.received_at),
                sites=sorted({*study.sites, arrival.source.site}),
                series_count=select(func.count())
                .select_from(series)
                .where(series.c.study_id == old.study_id)
                .scalar_subquery(),
                revision=study.revision + 1,
                size=study.size + new.size - old.size,
                modalities=modalities,
                pending_since=since,
                due_at=now + wait,
            )
        )
        event = InstancesStored(
            study_instance_uid=study.study_uid,
            source=arrival.source,
            association_id=arrival.association_id,
            attributes=new.attributes,
            instances=(new.model_copy(update={"attributes": {}, "replaces": old.content_hash}),),
            headers=arrived.headers,
            after_version=study.version,
        )
        await self._outbox.emit(tx, event, subject=study.study_uid, tenant=arrival.tenant, site=arrival.source.site)

    async def _say(
        self, tx: AsyncSession, entry: Entry, old: Row[Any], policy: ConflictPolicy, quarantine_id: str | None
    ) -> None:
        if not await holding.note_conflict(tx, entry, old, policy):
            return
        event = InstanceConflicted(
            study_instance_uid=old.study_uid,
            sop_instance_uid=entry.arrival.sop_instance_uid,
            policy=policy,
            kept_hash=old.content_hash,
            other_hash=entry.content_hash,
            quarantine_id=quarantine_id,
            source=entry.arrival.source,
        )
        tenant, site = entry.arrival.tenant, entry.arrival.source.site
        await self._outbox.emit(tx, event, subject=old.study_uid, tenant=tenant, site=site)
        metric.CONFLICTS.labels(outcome=policy).inc()
        _LOG.error(
            "other content under a known SOP Instance UID",
            study_uid=old.study_uid,
            tenant=tenant,
            node=entry.arrival.source.node,
            association=entry.arrival.association_id,
            kind="alarm",
            reason=policy,
        )


def _content(old: Row[Any]) -> Content:
    return Content(old.study_uid, old.content_hash, utc(old.received_at))


def _arrived(entry: Entry) -> Content:
    return Content(entry.study_uid, entry.content_hash, entry.arrival.received_at)


def _kept(instance: Any) -> dict[str, Any]:
    return {
        "sop_uid": instance.sop_instance_uid,
        "content_hash": instance.content_hash,
        "object_key": instance.object_key,
        "size": instance.size,
        "received_at": instance.received_at,
    }


async def _count(tx: AsyncSession, old: Row[Any], brought: Brought) -> None:
    """Bring the series up to date, one instance of which has another content now."""
    before = of_batch(stored_instances([old]))
    uids = sorted({*before.series, *brought.series})
    mine = (series.c.study_id == old.study_id, series.c.series_uid.in_(uids))
    if _sizeless(before) == _sizeless(brought):
        # A sender that corrects a series sends all of it, and each is by itself here.
        await tx.execute(update(series).where(*mine).values(size=series.c.size + brought.size - before.size))
        return
    # Sums can be added to, not taken from.
    rows = await tx.execute(
        select(instances).where(instances.c.study_id == old.study_id, instances.c.series_uid.in_(uids))
    )
    found = of_batch(stored_instances(rows)).series
    await tx.execute(delete(series).where(*mine))
    await tx.execute(
        series.insert(),
        [
            {
                "study_id": old.study_id,
                "series_uid": uid,
                "modality": tally.modality,
                "instance_count": tally.count,
                "size": tally.size,
                "numbers": tally.numbers,
                "announced": tally.announced,
            }
            for uid, tally in found.items()
        ],
    )


def _sizeless(brought: Brought) -> dict[str, Tally]:
    return {uid: replace(tally, size=0) for uid, tally in brought.series.items()}
