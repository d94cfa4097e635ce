"""All SQL of rules. Every function works in its caller's transaction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, func, null, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.delivery import DeliveryItem
from contracts.fact import Source
from contracts.instances import InstancesStored
from contracts.routing import RoutingDecided
from contracts.study import StudyAmended, StudyCompleted
from services.rules.models import completions, decisions, instances, requests, studies
from services.rules.plan import Known, Requested, Wish

_IDS_A_STATEMENT = 500
_IDENTITY = ("study_id", "sop_instance_uid", "content_hash")


@dataclass(frozen=True)
class Study:
    """A study of a tenant, locked until the transaction ends."""

    id: int
    tenant: str
    study_instance_uid: str
    site: str | None
    waiting: bool
    expired_version: int


@dataclass(frozen=True)
class Completion:
    """A version of a study that is to be decided."""

    id: int
    completed: StudyCompleted


def _insert(tx: AsyncSession) -> Any:
    return sqlite.insert if tx.get_bind().dialect.name == "sqlite" else postgresql.insert


async def open_study(tx: AsyncSession, tenant: str, study_instance_uid: str, site: str | None) -> Study:
    """Give the study's row, made if need be, and keep other replicas from deciding on it."""
    values = {"tenant": tenant, "study_instance_uid": study_instance_uid, "site": site, "waiting": False}
    await tx.execute(_insert(tx)(studies).values(values).on_conflict_do_nothing())
    mine = (studies.c.tenant == tenant, studies.c.study_instance_uid == study_instance_uid)
    return await _locked(tx, *mine)


async def lock_study(tx: AsyncSession, study_id: int) -> Study:
    """Give a study's row, and keep other replicas from deciding on it."""
    return await _locked(tx, studies.c.id == study_id)


async def _locked(tx: AsyncSession, *conditions: ColumnElement[bool]) -> Study:
    row = (await tx.execute(select(studies).where(*conditions).with_for_update())).one()
    return Study(row.id, row.tenant, row.study_instance_uid, row.site, row.waiting, row.expired_version)


async def keep_instances(tx: AsyncSession, study: Study, batch: InstancesStored) -> list[Known]:
    """Keep the instances of a batch; give those that were not known, or that became what the study has once more."""
    source = batch.source.model_dump(mode="json")
    attributes = [{**batch.attributes, **one.attributes} for one in batch.instances]
    rows = [
        {
            "study_id": study.id,
            "sop_instance_uid": one.sop_instance_uid,
            "content_hash": one.content_hash,
            "sop_class_uid": one.sop_class_uid,
            "series_instance_uid": one.series_instance_uid,
            "transfer_syntax_uid": one.transfer_syntax_uid,
            "object_key": one.object_key,
            "size": one.size,
            "received_at": one.received_at,
            "source": source,
            "attributes": own,
            "headers_key": batch.headers.key,
            "after_version": batch.after_version,
        }
        for one, own in zip(batch.instances, attributes, strict=True)
    ]
    statement = _insert(tx)(instances)
    # The same event again has the same time. A later one: this content was replaced or has expired, and has come again.
    again: dict[str, Any] = {name: statement.excluded[name] for name in rows[0] if name not in _IDENTITY}
    added = await tx.execute(
        statement.on_conflict_do_update(
            index_elements=_IDENTITY,
            # Not a bound None: with one SQLAlchemy sends each row in a statement of its own.
            set_=again | {"network_version": null()},
            where=or_(
                instances.c.received_at < statement.excluded.received_at,
                instances.c.after_version < statement.excluded.after_version,
            ),
        ).returning(instances.c.id, instances.c.sop_instance_uid, instances.c.content_hash),
        rows,
    )
    ids = {(row.sop_instance_uid, row.content_hash): row.id for row in added}
    return [
        Known(
            id=ids[one.sop_instance_uid, one.content_hash],
            item=DeliveryItem(
                sop_instance_uid=one.sop_instance_uid,
                sop_class_uid=one.sop_class_uid,
                transfer_syntax_uid=one.transfer_syntax_uid,
                content_hash=one.content_hash,
                object_key=one.object_key,
                size=one.size,
                received_at=one.received_at,
            ),
            series_instance_uid=one.series_instance_uid,
            received_at=one.received_at,
            source=batch.source,
            attributes=own,
            headers_key=batch.headers.key,
        )
        for one, own in zip(batch.instances, attributes, strict=True)
        if (one.sop_instance_uid, one.content_hash) in ids
    ]


async def instances_of(tx: AsyncSession, study: Study, *, undecided: bool = False) -> list[Known]:
    """Give the instances of a study: all of them, or those that no rule with trigger `instance` has seen."""
    there = or_(instances.c.after_version.is_(None), instances.c.after_version >= study.expired_version)
    mine = (instances.c.study_id == study.id, there)
    statement = select(instances).where(*mine).order_by(instances.c.id)
    if undecided:
        statement = statement.where(instances.c.network_version.is_(None))
    return [_known(row) for row in await tx.execute(statement)]


async def mark_decided(tx: AsyncSession, decided: Sequence[Known], network_version: int) -> None:
    """Note under which version of the definition instances were decided."""
    for start in range(0, len(decided), _IDS_A_STATEMENT):
        ids = [one.id for one in decided[start : start + _IDS_A_STATEMENT]]
        await tx.execute(update(instances).where(instances.c.id.in_(ids)).values(network_version=network_version))


async def keep_completion(tx: AsyncSession, study: Study, completed: StudyCompleted | StudyAmended) -> None:
    """Keep a version of a study; a known one changes nothing."""
    values = {
        "study_id": study.id,
        "version": completed.version,
        "completed": completed.model_dump(mode="json"),
        "state": "open",
    }
    await tx.execute(_insert(tx)(completions).values(values).on_conflict_do_nothing())


async def open_completions(tx: AsyncSession, study: Study) -> list[Completion]:
    """Give the versions that are to be decided, the highest first; those below a decided one are closed."""
    mine = completions.c.study_id == study.id
    rows = (
        await tx.execute(
            select(completions).where(mine, completions.c.state == "open").order_by(completions.c.version.desc())
        )
    ).all()
    if not rows:
        return []
    decided = await tx.scalar(select(func.max(completions.c.version)).where(mine, completions.c.state == "decided"))
    stale = [row.id for row in rows if decided is not None and row.version < decided]
    if stale:
        await tx.execute(update(completions).where(completions.c.id.in_(stale)).values(state="superseded"))
    return [Completion(row.id, StudyCompleted.model_validate(row.completed)) for row in rows if row.id not in stale]


async def close_completion(tx: AsyncSession, study: Study, completion: Completion, network_version: int) -> None:
    """Note that a version is decided, which closes all before it."""
    mine = (completions.c.study_id == study.id, completions.c.state == "open")
    lower = completions.c.version < completion.completed.version
    await tx.execute(update(completions).where(*mine, lower).values(state="superseded"))
    decided = {"state": "decided", "network_version": network_version}
    await tx.execute(update(completions).where(completions.c.id == completion.id).values(**decided))


async def requested_of(tx: AsyncSession, known: Sequence[Known]) -> list[Requested]:
    """Give what has been requested for instances of one study.

    What was requested of a content that another took the place of is requested of that one: whoever has the old
    content gets the new one.
    """
    by_uid = {one.item.sop_instance_uid: one for one in known}
    if not by_uid:
        return []
    statement = (
        select(requests, instances.c.sop_instance_uid)
        .join(instances, instances.c.id == requests.c.instance_id)
        .where(
            instances.c.study_id == select(instances.c.study_id).where(instances.c.id == known[0].id).scalar_subquery()
        )
        .order_by(instances.c.received_at)
    )
    return [
        Requested(by_uid[row.sop_instance_uid], row.destination, Wish(row.priority, row.transform, tuple(row.rules)))
        for row in await tx.execute(statement)
        if row.sop_instance_uid in by_uid
    ]


async def expire(tx: AsyncSession, study: Study, version: int, kept_since: datetime) -> Study:
    """Forget what a version had, whose copy is gone: its attributes, and that it is part of the study."""
    if version <= study.expired_version:
        return study
    await tx.execute(update(studies).where(studies.c.id == study.id).values(expired_version=version))
    unsaid = (instances.c.study_id == study.id, instances.c.after_version.is_(None))
    old = instances.c.received_at <= kept_since
    await tx.execute(update(instances).where(*unsaid, old).values(after_version=version - 1))
    expired = (instances.c.study_id == study.id, instances.c.after_version < version)
    await tx.execute(update(instances).where(*expired).values(attributes={}))
    closed = (completions.c.study_id == study.id, completions.c.version <= version)
    await tx.execute(update(completions).where(*closed, completions.c.state == "open").values(state="superseded"))
    await tx.execute(update(completions).where(*closed).values(completed={}))
    return replace(study, expired_version=version)


async def requested_before(tx: AsyncSession, study: Study, version: int) -> dict[str, dict[str, str]]:
    """Give what was requested of the instances that came before a version: hash by SOP Instance UID, by destination.

    What came before a version is part of it, unless its copy has expired.
    """
    rows = await tx.execute(
        select(requests.c.destination, instances.c.sop_instance_uid, instances.c.content_hash)
        .join(instances, instances.c.id == requests.c.instance_id)
        .where(instances.c.study_id == study.id, instances.c.after_version < version)
        .order_by(instances.c.received_at, instances.c.content_hash)
    )
    found: dict[str, dict[str, str]] = {}
    for destination, sop_uid, content_hash in rows:
        found.setdefault(destination, {})[sop_uid] = content_hash
    return found


async def keep_requests(tx: AsyncSession, made: Iterable[Requested], network_version: int) -> None:
    """Keep requests; for what is requested already, the first request stands."""
    rows = [
        {
            "instance_id": one.instance.id,
            "destination": one.destination,
            "transform": one.wish.transform,
            "priority": one.wish.priority,
            "rules": list(one.wish.rules),
            "network_version": network_version,
        }
        for one in made
    ]
    if rows:
        await tx.execute(_insert(tx)(requests).on_conflict_do_nothing(), rows)


async def keep_decision(tx: AsyncSession, study: Study, decided: RoutingDecided, at: datetime) -> None:
    """Keep a decision for people who ask why."""
    values = {
        "study_id": study.id,
        "decided_at": at,
        "trigger": decided.trigger,
        "decided": decided.model_dump(mode="json"),
    }
    await tx.execute(_insert(tx)(decisions).values(values))


async def decisions_of(tx: AsyncSession, study_instance_uid: str, after: int, limit: int) -> Sequence[Any]:
    """Give decisions on a study UID in all tenants, the oldest first: id, tenant, site, decided_at, decided."""
    statement = (
        select(decisions.c.id, studies.c.tenant, studies.c.site, decisions.c.decided_at, decisions.c.decided)
        .join(studies, studies.c.id == decisions.c.study_id)
        .where(studies.c.study_instance_uid == study_instance_uid, decisions.c.id > after)
        .order_by(decisions.c.id)
        .limit(limit)
    )
    return (await tx.execute(statement)).all()


async def set_waiting(tx: AsyncSession, study: Study, *, waiting: bool) -> None:
    """Note whether a study waits for a definition or the object store."""
    if study.waiting != waiting:
        await tx.execute(update(studies).where(studies.c.id == study.id).values(waiting=waiting))


async def waiting_studies(tx: AsyncSession, after: int, limit: int) -> Sequence[Any]:
    """Give studies that wait for a definition or the object store: id, tenant, study_instance_uid."""
    statement = select(studies.c.id, studies.c.tenant, studies.c.study_instance_uid)
    return (
        await tx.execute(statement.where(studies.c.waiting, studies.c.id > after).order_by(studies.c.id).limit(limit))
    ).all()


async def count_waiting(tx: AsyncSession) -> Mapping[str, int]:
    """Count the studies that can't be decided, by what they wait for."""
    definition = select(func.count()).select_from(studies).where(studies.c.waiting)
    missing = select(func.count(completions.c.study_id.distinct())).where(completions.c.state == "open")
    return {"decision": await tx.scalar(definition) or 0, "instances": await tx.scalar(missing) or 0}


def _known(row: Row[Any]) -> Known:
    return Known(
        id=row.id,
        item=DeliveryItem(
            sop_instance_uid=row.sop_instance_uid,
            sop_class_uid=row.sop_class_uid,
            transfer_syntax_uid=row.transfer_syntax_uid,
            content_hash=row.content_hash,
            object_key=row.object_key,
            size=row.size,
            received_at=row.received_at,
        ),
        series_instance_uid=row.series_instance_uid,
        received_at=row.received_at,
        source=Source.model_validate(row.source),
        attributes=row.attributes,
        headers_key=row.headers_key,
    )
