"""All SQL of rules. Every function works in its caller's transaction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import Insert, Row, func, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.delivery import DeliveryItem
from contracts.fact import Source
from contracts.instances import InstancesStored
from contracts.routing import RoutingDecided, read_priority
from contracts.study import StudyAmended, StudyCompleted
from services.rules import statements
from services.rules.hold import hold_of
from services.rules.models import completions, decisions, instances, studies
from services.rules.plan import Known, Requested, Wish

_IDS_A_STATEMENT = 500


@dataclass(frozen=True)
class Study:
    """A study of a tenant, locked until the transaction ends."""

    id: int
    tenant: str
    study_instance_uid: str
    site: str | None
    waiting: bool
    expired_version: int
    unmatched_at: datetime | None = None


@dataclass(frozen=True)
class Completion:
    """A version of a study that is to be decided."""

    id: int
    completed: StudyCompleted


def _in_dialect(tx: AsyncSession, statement: statements.ByDialect) -> Insert:
    return statement[tx.get_bind().dialect.name]


async def open_study(tx: AsyncSession, tenant: str, study_instance_uid: str, site: str | None) -> Study:
    """Give the study's row, made if need be, and keep other replicas from deciding on it."""
    mine = {"tenant": tenant, "name": study_instance_uid}
    row = (await tx.execute(statements.STUDY_NAMED, mine)).one_or_none()
    if row is None:
        values = {"tenant": tenant, "study_instance_uid": study_instance_uid, "site": site, "waiting": False}
        row = (await tx.execute(_in_dialect(tx, statements.ADD_STUDY), values)).one_or_none()
    if row is None:
        # Another replica has made it meanwhile.
        row = (await tx.execute(statements.STUDY_NAMED, mine)).one()
    return _study(row)


async def lock_study(tx: AsyncSession, study_id: int) -> Study:
    """Give a study's row, and keep other replicas from deciding on it."""
    return _study((await tx.execute(statements.STUDY, {"study": study_id})).one())


def _study(row: Row[Any]) -> Study:
    return Study(
        row.id, row.tenant, row.study_instance_uid, row.site, row.waiting, row.expired_version, row.unmatched_at
    )


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
    added = await tx.execute(_in_dialect(tx, statements.KEEP_INSTANCES), rows)
    kept = {(row.sop_instance_uid, row.content_hash): row for row in added}
    return [
        Known(
            id=kept[one.sop_instance_uid, one.content_hash].id,
            item=DeliveryItem(
                sop_instance_uid=one.sop_instance_uid,
                sop_class_uid=one.sop_class_uid,
                transfer_syntax_uid=one.transfer_syntax_uid,
                content_hash=one.content_hash,
                object_key=one.object_key,
                size=one.size,
                received_at=one.received_at,
                came_round=kept[one.sop_instance_uid, one.content_hash].origin not in (None, batch.source.node),
            ),
            series_instance_uid=one.series_instance_uid,
            received_at=one.received_at,
            source=batch.source,
            attributes=own,
            headers_key=batch.headers.key,
        )
        for one, own in zip(batch.instances, attributes, strict=True)
        if (one.sop_instance_uid, one.content_hash) in kept
    ]


async def instances_of(tx: AsyncSession, study: Study, *, undecided: bool = False) -> list[Known]:
    """Give the instances of a study: all of them, or those that no rule with trigger `instance` has seen."""
    statement = statements.UNDECIDED_INSTANCES if undecided else statements.INSTANCES
    rows = await tx.execute(statement, {"study": study.id, "expired": study.expired_version})
    return [_known(row) for row in rows]


async def mark_decided(tx: AsyncSession, decided: Sequence[Known], network_version: int) -> None:
    """Note under which version of the definition instances were decided."""
    for start in range(0, len(decided), _IDS_A_STATEMENT):
        ids = [one.id for one in decided[start : start + _IDS_A_STATEMENT]]
        await tx.execute(statements.MARK_DECIDED, {"ids": ids, "under": network_version})


async def keep_completion(tx: AsyncSession, study: Study, completed: StudyCompleted | StudyAmended) -> None:
    """Keep a version of a study; a known one changes nothing."""
    values = {
        "study_id": study.id,
        "version": completed.version,
        "completed": completed.model_dump(mode="json"),
        "state": "open",
    }
    await tx.execute(_in_dialect(tx, statements.KEEP_COMPLETION), values)


async def open_completions(tx: AsyncSession, study: Study) -> list[Completion]:
    """Give the versions that are to be decided, the highest first; those below a decided one are closed."""
    rows = (await tx.execute(statements.OPEN_COMPLETIONS, {"study": study.id})).all()
    decided = rows[0].decided if rows else None
    if decided is not None and rows[-1].version < decided:
        await tx.execute(statements.SUPERSEDE, {"study": study.id, "before": decided})
        rows = [row for row in rows if row.version >= decided]
    return [Completion(row.id, StudyCompleted.model_validate(row.completed)) for row in rows]


async def last_decided(tx: AsyncSession, study: Study) -> Completion | None:
    """Give the last version that is decided, if its copy has not expired."""
    which = (completions.c.study_id == study.id, completions.c.state == "decided")
    row = (
        await tx.execute(select(completions).where(*which).order_by(completions.c.version.desc()).limit(1))
    ).one_or_none()
    if row is None or not row.completed:
        return None
    return Completion(row.id, StudyCompleted.model_validate(row.completed))


async def close_completion(tx: AsyncSession, study: Study, completion: Completion, network_version: int) -> None:
    """Note that a version is decided, which closes all before it."""
    await tx.execute(statements.SUPERSEDE, {"study": study.id, "before": completion.completed.version})
    await tx.execute(statements.CLOSE_COMPLETION, {"completion": completion.id, "under": network_version})


async def requested_of(tx: AsyncSession, known: Sequence[Known]) -> list[Requested]:
    """Give what has been requested for instances of one study.

    What was requested of a content that another took the place of is requested of that one: whoever has the old
    content gets the new one.
    """
    by_uid = {one.item.sop_instance_uid: one for one in known}
    if not by_uid:
        return []
    rows = await tx.execute(statements.REQUESTED, {"one": known[0].id})
    return [
        Requested(by_uid[row.sop_instance_uid], row.destination, _wish(row))
        for row in rows
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
    rows = await tx.execute(statements.REQUESTED_BEFORE, {"study": study.id, "before": version})
    found: dict[str, dict[str, str]] = {}
    for destination, sop_uid, content_hash in rows:
        found.setdefault(destination, {})[sop_uid] = content_hash
    return found


async def keep_requests(tx: AsyncSession, made: Iterable[Requested], network_version: int) -> None:
    """Keep requests; for what is requested already the first stands, and it is noted under what it was asked again."""
    rows = [
        {
            "instance_id": one.instance.id,
            "destination": one.destination,
            "transform": one.wish.transform,
            "priority": one.wish.priority,
            "rules": list(one.wish.rules),
            "hold": None if one.wish.hold is None else one.wish.hold.document(),
            "network_version": network_version,
        }
        for one in made
    ]
    if rows:
        await tx.execute(_in_dialect(tx, statements.KEEP_REQUESTS), rows)


async def keep_decision(
    tx: AsyncSession, study: Study, decided: RoutingDecided, at: datetime, inputs: dict[str, Any]
) -> None:
    """Keep a decision for people who ask why, and what it was made from."""
    values = {
        "study_id": study.id,
        "decided_at": at,
        "trigger": decided.trigger,
        "decided": decided.model_dump(mode="json"),
        "occasion": decided.occasion,
        "inputs_hash": decided.inputs_hash,
        "inputs": inputs,
    }
    await tx.execute(statements.KEEP_DECISION, values)


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
    source = Source.model_validate(row.source)
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
            came_round=row.origin not in (None, source.node),
        ),
        series_instance_uid=row.series_instance_uid,
        received_at=row.received_at,
        source=source,
        attributes=row.attributes,
        headers_key=row.headers_key,
        aside=row.aside,
    )


def _wish(row: Row[Any]) -> Wish:
    # A row of the release before may have another word for its lane.
    return Wish(read_priority(row.priority), row.transform, tuple(row.rules), hold_of(row.hold), row.network_version)
