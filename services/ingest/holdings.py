"""All SQL of retention. Every function works in its caller's transaction."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, Final

from sqlalchemy import (
    ColumnElement,
    Row,
    and_,
    case,
    delete,
    exists,
    func,
    literal,
    literal_column,
    or_,
    select,
    update,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from services.ingest.models import (
    arrivals,
    batches,
    conflicts,
    deliveries,
    flags,
    garbage,
    instances,
    quarantine,
    replaced,
    series,
    studies,
)
from services.ingest.repository import utc
from services.ingest.retention import Copy, Delivered

#: Entries of the quarantine on which nobody has decided, or whose decision is not carried out.
_OPEN: Final = ("open", "releasing")
#: Written out, so that the databases see that their index `studies_kept` fits.
_KEPT: Final = studies.c.instance_count > literal_column("0")
#: Segments of an instance's key: tenant, study, series, name.
_PARTS: Final = 4


async def note_decision(
    tx: AsyncSession, study: tuple[str, str], version: int, destinations: Iterable[str], at: datetime
) -> None:
    """Note where a version goes; in any order and any number of times."""
    tenant, study_uid = study
    rows = [
        {"tenant": tenant, "study_uid": study_uid, "destination": each, "wanted_version": version, "changed_at": at}
        for each in sorted(set(destinations))
    ]
    if rows:
        await tx.execute(_highest(tx, "wanted_version"), rows)
    await tx.execute(
        update(studies)
        .where(studies.c.tenant == tenant, studies.c.study_uid == study_uid, studies.c.decided_version < version)
        .values(decided_version=version)
    )


async def note_discarded(tx: AsyncSession, study: tuple[str, str], version: int, why: str) -> None:
    """Note that rules or people want a version nowhere; in any order and any number of times."""
    tenant, study_uid = study
    mine = (studies.c.tenant == tenant, studies.c.study_uid == study_uid, studies.c.discarded_version < version)
    await tx.execute(update(studies).where(*mine).values(discarded_version=version, discarded_why=why))


async def note_delivered(
    tx: AsyncSession, study: tuple[str, str], version: int, destination: str, at: datetime
) -> None:
    """Note that a destination has a version; in any order and any number of times."""
    tenant, study_uid = study
    row = {
        "tenant": tenant,
        "study_uid": study_uid,
        "destination": destination,
        "done_version": version,
        "changed_at": at,
    }
    await tx.execute(_highest(tx, "done_version"), [row])


async def note_word(
    tx: AsyncSession, study: tuple[str, str], destination: str, waived: tuple[int, str | None], word: int, at: datetime
) -> None:
    """Note what was decided about a delivery; in any order and any number of times.

    Parameters
    ----------
    tx, study, destination
        The delivery.
    waived
        Last version that need not go there any more, 0 for none, and the destination that has it instead.
    word
        Number of the event: the highest is the last that was said.
    at
        The time, UTC.
    """
    tenant, study_uid = study
    insert = _dialect(tx).insert(deliveries)
    values = {"waived_version": waived[0], "instead": waived[1], "word": word, "changed_at": at}
    statement = insert.on_conflict_do_update(
        index_elements=["tenant", "study_uid", "destination"],
        set_={name: insert.excluded[name] for name in values},
        where=deliveries.c.word < insert.excluded["word"],
    )
    await tx.execute(statement, [{"tenant": tenant, "study_uid": study_uid, "destination": destination, **values}])


def _highest(tx: AsyncSession, column: str) -> Any:
    insert = _dialect(tx).insert(deliveries)
    new, old = insert.excluded[column], deliveries.c[column]
    return insert.on_conflict_do_update(
        index_elements=["tenant", "study_uid", "destination"],
        set_={column: case((new > old, new), else_=old), "changed_at": insert.excluded["changed_at"]},
    )


async def ripe(tx: AsyncSession, until: datetime, after: tuple[datetime, int] | None, limit: int) -> list[Row[Any]]:
    """List studies that may have to go, the oldest first: decided, delivered, and nothing since a time.

    A first look, so that those that wait for a destination cost little; what counts is `services.ingest.retention`.
    """
    place = [] if after is None else [_behind(after)]
    owed = exists().where(
        deliveries.c.tenant == studies.c.tenant,
        deliveries.c.study_uid == studies.c.study_uid,
        deliveries.c.done_version < deliveries.c.wanted_version,
        deliveries.c.waived_version < deliveries.c.wanted_version,
    )
    rows = await tx.execute(
        select(studies)
        .where(
            studies.c.last_arrival <= until,
            _KEPT,
            # Not by `due_at`: SQLite would read all that nothing is due of by its index, and sort it.
            studies.c.version > 0,
            studies.c.decided_version == studies.c.version,
            ~owed,
            *place,
        )
        .order_by(studies.c.last_arrival, studies.c.id)
        .limit(limit)
    )
    return list(rows)


def _behind(after: tuple[datetime, int]) -> ColumnElement[bool]:
    at, row = after
    return or_(studies.c.last_arrival > at, and_(studies.c.last_arrival == at, studies.c.id > row))


async def place_of(tx: AsyncSession, study_id: int) -> tuple[datetime, int] | None:
    """Give a study's place in the order in which `ripe` and `kept` list."""
    at = await tx.scalar(select(studies.c.last_arrival).where(studies.c.id == study_id))
    return None if at is None else (at, study_id)


async def kept(tx: AsyncSession, after: tuple[datetime, int] | None, limit: int) -> list[Row[Any]]:
    """List studies whose copy is kept, the one with the oldest last arrival first."""
    place = [] if after is None else [_behind(after)]
    rows = await tx.execute(
        select(studies).where(_KEPT, *place).order_by(studies.c.last_arrival, studies.c.id).limit(limit)
    )
    return list(rows)


async def copies(tx: AsyncSession, rows: Sequence[Row[Any]]) -> dict[int, Copy]:
    """Read what retention has to know of studies, by id."""
    ids = [row.id for row in rows]
    went: dict[tuple[str, str], list[Delivered]] = {}
    for tenant in sorted({row.tenant for row in rows}):
        uids = [row.study_uid for row in rows if row.tenant == tenant]
        found = await tx.execute(
            select(deliveries).where(deliveries.c.tenant == tenant, deliveries.c.study_uid.in_(uids))
        )
        for each in found:
            delivered = Delivered(
                each.destination, each.wanted_version, each.done_version, each.waived_version, each.instead
            )
            went.setdefault((tenant, each.study_uid), []).append(delivered)
    raised = await _counted(
        tx,
        select(flags.c.study_id, func.count())
        .where(flags.c.study_id.in_(ids), flags.c.cleared_at.is_(None))
        .group_by(flags.c.study_id),
    )
    aside = await _counted(
        tx,
        select(studies.c.id, func.count())
        .join(quarantine, and_(quarantine.c.tenant == studies.c.tenant, quarantine.c.study_uid == studies.c.study_uid))
        .where(studies.c.id.in_(ids), quarantine.c.state.in_(_OPEN))
        .group_by(studies.c.id),
    )
    # What contradicts an instance of the study may say that it belongs to another one.
    disputed = await _counted(
        tx,
        select(studies.c.id, func.count())
        .join(conflicts, conflicts.c.study_id == studies.c.id)
        .join(
            quarantine,
            and_(quarantine.c.tenant == studies.c.tenant, quarantine.c.content_hash == conflicts.c.other_hash),
        )
        .where(studies.c.id.in_(ids), quarantine.c.state.in_(_OPEN))
        .group_by(studies.c.id),
    )
    return {
        row.id: Copy(
            version=row.version,
            decided=row.decided_version,
            settled=row.due_at is None and row.pending_since is None,
            modalities=tuple(row.modalities or ()),
            last_arrival=utc(row.last_arrival),
            deliveries=tuple(went.get((row.tenant, row.study_uid), ())),
            flags=raised.get(row.id, 0),
            quarantined=aside.get(row.id, 0) + disputed.get(row.id, 0),
            discarded=row.discarded_why if row.discarded_version == row.version > 0 else None,
        )
        for row in rows
    }


async def _counted(tx: AsyncSession, query: Any) -> dict[int, int]:
    return {int(key): int(count) for key, count in await tx.execute(query)}


async def lock(tx: AsyncSession, study_id: int) -> Row[Any] | None:
    """Give a study's row, locked until the transaction ends; None while another transaction has it."""
    found = await tx.execute(select(studies).where(studies.c.id == study_id).with_for_update(skip_locked=True))
    return found.first()


async def remove(tx: AsyncSession, row: Row[Any], now: datetime) -> None:
    """Remove the copy of a study that is locked, and note its objects in the garbage.

    The row of the study stays, with its version and where it went: what comes again is its next version.
    """
    for column, table in (
        (instances.c.object_key, instances),
        (replaced.c.object_key, replaced),
        (batches.c.headers_key, batches),
    ):
        keys = select(column, literal(now, garbage.c.noted_at.type)).where(table.c.study_id == row.id)
        insert = _dialect(tx).insert(garbage).from_select(["object_key", "noted_at"], keys)
        await tx.execute(insert.on_conflict_do_nothing())
    if row.manifest_key is not None:
        await discard(tx, row.manifest_key, now)
    for each in (instances, replaced, batches, series, arrivals, conflicts):
        await tx.execute(delete(each).where(each.c.study_id == row.id))
    await tx.execute(
        update(studies)
        .where(studies.c.id == row.id)
        .values(
            instance_count=0,
            series_count=0,
            size=0,
            modalities=None,
            announced=None,
            attributes=None,
            manifest_key=None,
            evidence=None,
            score=None,
            revision=row.revision + 1,
            expired_at=now,
        )
    )


async def discard(tx: AsyncSession, key: str, now: datetime) -> None:
    """Note an object that no row names any more."""
    insert = _dialect(tx).insert(garbage).values(object_key=key, noted_at=now)
    await tx.execute(insert.on_conflict_do_nothing())


async def unnamed(tx: AsyncSession, limit: int) -> tuple[list[str], list[str]]:
    """Take keys of the garbage, the oldest first: those that no row names, and those that one names again.

    An arrival that was found once more in a spool has its old key; other keys are never given twice.
    """
    keys = list(await tx.scalars(select(garbage.c.object_key).order_by(garbage.c.noted_at).limit(limit)))
    by_tenant: dict[str, dict[str, str]] = {}
    for key in keys:
        parts = key.split("/")
        if len(parts) == _PARTS and key.endswith(".dcm"):
            by_tenant.setdefault(parts[0], {})[key] = parts[-1].removesuffix(".dcm").rpartition(".")[0]
    named: set[str] = set()
    for tenant, uids in by_tenant.items():
        wanted = sorted(set(uids.values()))
        for query in (
            select(instances.c.object_key).where(instances.c.tenant == tenant, instances.c.sop_uid.in_(wanted)),
            select(replaced.c.object_key)
            .join(
                instances, and_(instances.c.study_id == replaced.c.study_id, instances.c.sop_uid == replaced.c.sop_uid)
            )
            .where(instances.c.tenant == tenant, instances.c.sop_uid.in_(wanted)),
        ):
            named |= set(await tx.scalars(query)) & uids.keys()
    return [key for key in keys if key not in named], sorted(named)


async def emptied(tx: AsyncSession, keys: Sequence[str]) -> None:
    """Objects of the garbage are gone, or are none any more."""
    await tx.execute(delete(garbage).where(garbage.c.object_key.in_(keys)))


def _dialect(tx: AsyncSession) -> Any:
    return postgresql if tx.get_bind().dialect.name == "postgresql" else sqlite
