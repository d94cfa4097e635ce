"""SQL of what rules do besides deliveries. Every function works in its caller's transaction."""

import hashlib
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Literal, cast

from sqlalchemy import Row, Table, delete, exists, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.delivery import DestinationChanged
from contracts.routing import Trigger
from services.rules.action import Tag, effective
from services.rules.models import (
    asides,
    completions,
    decisions,
    delivered,
    destinations,
    instances,
    studies,
    tags,
    timers,
)
from services.rules.plan import Known
from services.rules.repository import Study

_IDS_A_STATEMENT = 500


def _name(study: Study, rule: str, at: datetime) -> str:
    """Name what a rule puts aside of a study for the quarantine, where names sort by time."""
    of_both = hashlib.sha256(f"{study.tenant}\n{study.study_instance_uid}\n{rule}".encode()).hexdigest()[:16]
    return f"{int(at.timestamp() * 1_000_000):016x}-{of_both}"


async def unhealthy(tx: AsyncSession) -> frozenset[str]:
    """Name the destinations that could not be reached the last time, or are paused."""
    return frozenset(await tx.scalars(select(destinations.c.key).where(destinations.c.healthy.is_(False))))


async def note_health(tx: AsyncSession, said: DestinationChanged) -> None:
    """Note what egress told of a destination; what is older than what is known changes nothing."""
    statement = _insert(tx, destinations).values(
        key=said.destination, healthy=said.healthy, problem=said.problem, since=said.since
    )
    new = statement.excluded
    await tx.execute(
        statement.on_conflict_do_update(
            index_elements=["key"],
            set_={"healthy": new.healthy, "problem": new.problem, "since": new.since},
            where=destinations.c.since <= new.since,
        )
    )


async def note_delivered(tx: AsyncSession, study: Study, destination: str, version: int) -> None:
    """Note that a destination has a version of a study; in any order."""
    statement = _insert(tx, delivered).values(study_id=study.id, destination=destination, study_version=version)
    await tx.execute(
        statement.on_conflict_do_update(
            index_elements=["study_id", "destination"],
            set_={"study_version": statement.excluded.study_version},
            where=delivered.c.study_version < statement.excluded.study_version,
        )
    )


async def delivered_to(tx: AsyncSession, study: Study, version: int) -> list[str]:
    """Name the destinations that have a version of a study, or a later one."""
    mine = (delivered.c.study_id == study.id, delivered.c.study_version >= version)
    return sorted(await tx.scalars(select(delivered.c.destination).where(*mine)))


async def tags_of(tx: AsyncSession, study_id: int) -> list[Tag]:
    """Give all that rules have set on a study: of each name one for each trigger that set it."""
    rows = await tx.execute(select(tags).where(tags.c.study_id == study_id).order_by(tags.c.name, tags.c.rank))
    return [Tag(row.name, row.value, row.rule, cast("Trigger", row.trigger), row.rank) for row in rows]


async def tagged(tx: AsyncSession, study_instance_uid: str) -> Sequence[Any]:
    """Give the tags of all studies with a UID, one of each name: tenant, site, name, value, rule, set_at."""
    stronger = tags.alias()
    beaten = exists().where(
        stronger.c.study_id == tags.c.study_id, stronger.c.name == tags.c.name, stronger.c.rank < tags.c.rank
    )
    statement = (
        select(studies.c.tenant, studies.c.site, tags.c.name, tags.c.value, tags.c.rule, tags.c.set_at)
        .join(studies, studies.c.id == tags.c.study_id)
        .where(studies.c.study_instance_uid == study_instance_uid, ~beaten)
        .order_by(studies.c.tenant, tags.c.name)
    )
    return (await tx.execute(statement)).all()


async def set_tags(tx: AsyncSession, study: Study, wanted: Iterable[Tag], at: datetime) -> list[Tag]:
    """Set tags; give those whose value counts from now on, and did not before."""
    known = await tags_of(tx, study.id)
    ranks = {(one.name, one.trigger): one.rank for one in known}
    stronger = [one for one in wanted if one.rank < ranks.get((one.name, one.trigger), one.rank + 1)]
    for one in stronger:
        values = {"value": one.value, "rule": one.rule, "rank": one.rank, "set_at": at}
        statement = _insert(tx, tags).values(study_id=study.id, name=one.name, trigger=one.trigger, **values)
        await tx.execute(statement.on_conflict_do_update(index_elements=["study_id", "name", "trigger"], set_=values))
    before = effective(known)
    now = effective([*known, *stronger])
    return [one for name, one in now.items() if name not in before or one.value != before[name].value]


async def mark_aside(tx: AsyncSession, put: Sequence[Known], rule: str) -> None:
    """Note which rule put instances aside, or discarded them."""
    for start in range(0, len(put), _IDS_A_STATEMENT):
        ids = [one.id for one in put[start : start + _IDS_A_STATEMENT]]
        await tx.execute(update(instances).where(instances.c.id.in_(ids)).values(aside=rule))


async def aside_by(tx: AsyncSession, study: Study, rule: str) -> tuple[int, int]:
    """Count the instances that a rule put aside of a study, and their bytes."""
    mine = (instances.c.study_id == study.id, instances.c.aside == rule)
    row = (await tx.execute(select(func.count(), func.coalesce(func.sum(instances.c.size), 0)).where(*mine))).one()
    return int(row[0]), int(row[1])


async def open_aside(
    tx: AsyncSession, study: Study, rule: str, count: int, version: int | None, at: datetime
) -> str | None:
    """Note that a rule puts so many instances of a study aside; give its name if people have to be told."""
    mine = (asides.c.study_id == study.id, asides.c.rule == rule)
    row = (await tx.execute(select(asides).where(*mine))).one_or_none()
    if row is None:
        key = _name(study, rule, at)
        values = {"study_id": study.id, "rule": rule, "state": "open", "opened_at": at}
        await tx.execute(asides.insert().values(id=key, told=count, study_version=version, **values))
        return key
    if row.told >= count and (row.study_version or 0) >= (version or 0):
        return None
    # What a person discarded before is not what has come since: people are asked anew.
    values = {"state": "open", "told": max(count, row.told), "study_version": version or row.study_version}
    await tx.execute(update(asides).where(asides.c.id == row.id).values(**values))
    return str(row.id)


async def lifted(tx: AsyncSession, study: Study) -> frozenset[str]:
    """Name the rules that put nothing aside of a study any more, because a person released what they had."""
    mine = (asides.c.study_id == study.id, asides.c.state == "released")
    return frozenset(await tx.scalars(select(asides.c.rule).where(*mine)))


async def is_aside(tx: AsyncSession, study: Study) -> bool:
    """Tell whether a study waits as a whole for a person to decide."""
    mine = (asides.c.study_id == study.id, asides.c.state == "open", asides.c.study_version.is_not(None))
    return await tx.scalar(select(asides.c.id).where(*mine).limit(1)) is not None


async def aside_states(tx: AsyncSession, study: Study) -> dict[str, str]:
    """Give what became of what rules put aside of a study: open, released or discarded, by rule."""
    rows = await tx.execute(select(asides.c.rule, asides.c.state).where(asides.c.study_id == study.id))
    return {row.rule: row.state for row in rows}


async def whole_discarded(tx: AsyncSession, study: Study, version: int, count: int) -> Row[Any] | None:
    """Give the entry by which people discarded a version of so many instances as a whole; none if they didn't."""
    mine = (asides.c.study_id == study.id, asides.c.state == "discarded")
    whole = (asides.c.study_version == version, asides.c.told >= count)
    return (await tx.execute(select(asides).where(*mine, *whole).limit(1))).one_or_none()


async def find_aside(tx: AsyncSession, key: str) -> Row[Any] | None:
    """Give what was put aside by its name in the quarantine; none if rules didn't."""
    return (await tx.execute(select(asides).where(asides.c.id == key))).one_or_none()


async def resolve_aside(tx: AsyncSession, row: Row[Any], state: Literal["released", "discarded"]) -> None:
    """Carry out what a person decided: what is released is to be decided once more, without that rule."""
    await tx.execute(update(asides).where(asides.c.id == row.id).values(state=state))
    if state == "released":
        mine = (instances.c.study_id == row.study_id, instances.c.aside == row.rule)
        await tx.execute(update(instances).where(*mine).values(aside=None, network_version=None))
        await _reopen(tx, row.study_id)


async def undecide(tx: AsyncSession, study: Study) -> None:
    """Have a study decided once more: each of its instances, and its last version."""
    await tx.execute(update(instances).where(instances.c.study_id == study.id).values(network_version=None))
    await _reopen(tx, study.id)


async def _reopen(tx: AsyncSession, study_id: int) -> None:
    decided = (completions.c.study_id == study_id, completions.c.state == "decided")
    last = select(func.max(completions.c.version)).where(*decided).scalar_subquery()
    await tx.execute(update(completions).where(*decided, completions.c.version == last).values(state="open"))


async def set_unmatched(tx: AsyncSession, study: Study, at: datetime | None) -> None:
    """Note since when no rule says where a study goes, or that one does."""
    await tx.execute(update(studies).where(studies.c.id == study.id).values(unmatched_at=at))


async def decided_so_far(tx: AsyncSession, study: Study) -> list[dict[str, Any]]:
    """Give what rules said of a study so far: the matches of all decisions, as the events had them."""
    rows = await tx.scalars(select(decisions.c.decided).where(decisions.c.study_id == study.id))
    return [match for decided in rows for match in decided["matches"]]


async def unmatched(tx: AsyncSession, after: int, limit: int, uid: str | None = None) -> Sequence[Row[Any]]:
    """List studies that no rule matched, the oldest row first: id, tenant, study_instance_uid, site, unmatched_at."""
    which = select(studies).where(studies.c.unmatched_at.is_not(None), studies.c.id > after)
    if uid is not None:
        which = which.where(studies.c.study_instance_uid == uid)
    return (await tx.execute(which.order_by(studies.c.id).limit(limit))).all()


async def count_unmatched(tx: AsyncSession) -> int:
    """Count the studies that no rule matched."""
    return await tx.scalar(select(func.count()).select_from(studies).where(studies.c.unmatched_at.is_not(None))) or 0


async def set_timer(
    tx: AsyncSession, study: Study, rule: str, version: int, due: tuple[datetime, datetime | None]
) -> None:
    """Set when a rule looks at a version of a study: first, and last if again and again."""
    statement = _insert(tx, timers).values(
        study_id=study.id, rule=rule, study_version=version, due_at=due[0], last_at=due[1]
    )
    new = statement.excluded
    await tx.execute(
        statement.on_conflict_do_update(
            index_elements=["study_id", "rule"],
            set_={"study_version": new.study_version, "due_at": new.due_at, "last_at": new.last_at},
            where=timers.c.study_version <= new.study_version,
        )
    )


async def due_timers(tx: AsyncSession, now: datetime, after: int, limit: int) -> Sequence[Any]:
    """List timers that are due, the oldest row first: id, study_id, tenant, study_instance_uid."""
    statement = (
        select(timers.c.id, timers.c.study_id, studies.c.tenant, studies.c.study_instance_uid)
        .join(studies, studies.c.id == timers.c.study_id)
        .where(timers.c.due_at <= now, timers.c.id > after)
        .order_by(timers.c.id)
        .limit(limit)
    )
    return (await tx.execute(statement)).all()


async def due_timer(tx: AsyncSession, key: int, now: datetime) -> Row[Any] | None:
    """Give a timer if it is still due, once its study is locked."""
    return (await tx.execute(select(timers).where(timers.c.id == key, timers.c.due_at <= now))).one_or_none()


async def move_timer(tx: AsyncSession, key: int, due_at: datetime | None) -> None:
    """Set when a timer is due again; without a time it is done."""
    if due_at is None:
        await tx.execute(delete(timers).where(timers.c.id == key))
    else:
        await tx.execute(update(timers).where(timers.c.id == key).values(due_at=due_at))


def _insert(tx: AsyncSession, table: Table) -> Any:
    return (postgresql if tx.get_bind().dialect.name == "postgresql" else sqlite).insert(table)
