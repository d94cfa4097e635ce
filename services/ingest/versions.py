"""All SQL of completion: which studies are due, what is known of them, and the versions that are recorded."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row, bindparam, func, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.fact import Attributes, Source
from contracts.instances import StoredInstance
from contracts.study import Sign
from services.ingest.models import instances, open_work, received, series, studies
from services.ingest.repository import CLOCKS_DIFFER, tally_of, utc
from services.ingest.tally import Tally
from services.ingest.work import Study

#: Far longer than writing a manifest takes.
_LEASE: Final = timedelta(minutes=5)


@dataclass(frozen=True)
class Due:
    """A study that may be complete, leased to one replica.

    Attributes
    ----------
    attempt
        What this lease names its manifest after; no other lease ever does.
    left
        What a lease before named its manifest after, which no version has and the object store may have.
    """

    id: int
    tenant: str
    study_uid: str
    revision: int
    version: int
    version_count: int
    manifest_key: str | None
    first_arrival: datetime
    last_arrival: datetime
    pending_since: datetime | None
    broken_at: datetime | None
    announced: int | None
    source: Source
    sites: tuple[str, ...]
    attempt: str
    left: str | None

    @property
    def study(self) -> Study:
        """Tenant and Study Instance UID."""
        return self.tenant, self.study_uid


@dataclass(frozen=True)
class Version:
    """A version of a study that is about to be recorded."""

    number: int
    count: int
    content_hash: str
    manifest_key: str
    attributes: Attributes
    signs: tuple[Sign, ...]
    score: float
    at: datetime


async def lease_due(tx: AsyncSession, replica: str, attempt: str, *, now: datetime, limit: int) -> list[Due]:
    """Take studies that have fallen due; no other replica gets them until the lease ends.

    The row says which manifest may come of the lease, from before there is one until a version has it or it is gone:
    so none is ever without a row, whoever dies when. What an earlier lease has left stands there until `attempted`.

    A replica finishes what it has leased before it leases again: what it still holds, its life before this one left.
    """
    until = now + _LEASE
    free = or_(
        studies.c.leased_until.is_(None),
        studies.c.leased_until <= now,
        # Leased before the clock was put back.
        studies.c.leased_until > until + CLOCKS_DIFFER,
        studies.c.leased_by == replica,
    )
    rows = await tx.execute(
        select(studies)
        .where(studies.c.due_at <= now, free)
        .order_by(studies.c.due_at)
        .limit(limit)
        .with_for_update(skip_locked=True)
    )
    due = [_due(row, attempt) for row in rows]
    await tx.execute(
        update(studies)
        .where(studies.c.id.in_([each.id for each in due]))
        .values(leased_by=replica, leased_until=until, attempt=func.coalesce(studies.c.attempt, attempt))
    )
    return due


async def attempted(tx: AsyncSession, study_ids: Collection[int], replica: str, attempt: str) -> set[int]:
    """Note the attempt of a lease in place of what was left, which is gone; give the studies that are still leased."""
    leased = await tx.scalars(
        update(studies)
        .where(studies.c.id.in_(study_ids), studies.c.leased_by == replica)
        .values(attempt=attempt)
        .returning(studies.c.id)
    )
    return set(leased)


async def next_due(tx: AsyncSession) -> tuple[datetime, datetime] | None:
    """Tell when the next study may be complete, and when the last."""
    # Each by itself: SQLite reads one end of the index for one of them, and all of the table for both at once.
    ends = (select(end(studies.c.due_at)).scalar_subquery() for end in (func.min, func.max))
    first, last = (await tx.execute(select(*ends))).one()
    return None if first is None else (utc(first), utc(last))


async def follow_clock(tx: AsyncSession, latest: datetime) -> None:
    """Let no study wait for longer than to a time: the clock was put back since its last instance arrived."""
    await tx.execute(update(studies).where(studies.c.due_at > latest).values(due_at=latest))


async def postpone(tx: AsyncSession, until: Mapping[int, datetime], replica: str) -> None:
    """Give studies back, by id: they are not complete yet, and no manifest came of their lease, or it is gone.

    One whose lease was lost is another replica's now.
    """
    if not until:
        return
    await (await tx.connection()).execute(
        update(studies)
        .where(
            studies.c.id == bindparam("study"), studies.c.due_at.is_not(None), studies.c.leased_by == bindparam("of")
        )
        .values(due_at=bindparam("at"), leased_by=None, leased_until=None, attempt=None),
        [{"study": study, "at": at, "of": replica} for study, at in sorted(until.items())],
    )


async def tallies(tx: AsyncSession, study_ids: Collection[int]) -> dict[int, list[Tally]]:
    """Give the tallies of the series of studies."""
    rows = await tx.execute(
        select(series).where(series.c.study_id.in_(study_ids)).order_by(series.c.study_id, series.c.series_uid)
    )
    found: dict[int, list[Tally]] = {study: [] for study in study_ids}
    for row in rows:
        found[row.study_id].append(tally_of(row))
    return found


async def instance_ids(tx: AsyncSession, study_id: int) -> list[int]:
    """List the rows of a study's instances in the order of their SOP Instance UIDs."""
    rows = await tx.scalars(
        select(instances.c.id).where(instances.c.study_id == study_id).order_by(instances.c.sop_uid)
    )
    return list(rows)


async def instance_rows(tx: AsyncSession, ids: Collection[int]) -> list[Row[Any]]:
    """Give rows of instances in the order of their SOP Instance UIDs; `stored_instances` reads them."""
    return list(await tx.execute(select(instances).where(instances.c.id.in_(ids)).order_by(instances.c.sop_uid)))


def stored_instances(rows: Iterable[Row[Any]]) -> list[StoredInstance]:
    """Read rows of instances, with all their base attributes."""
    return [
        StoredInstance(
            sop_instance_uid=row.sop_uid,
            sop_class_uid=row.sop_class_uid,
            series_instance_uid=row.series_uid,
            transfer_syntax_uid=row.transfer_syntax_uid,
            content_hash=row.content_hash,
            object_key=row.object_key,
            size=row.size,
            received_at=utc(row.received_at),
            attributes=row.attributes,
        )
        for row in rows
    ]


async def record(tx: AsyncSession, due: Due, version: Version, replica: str) -> bool:
    """Make a version the study's last. False if instances arrived, or the lease was lost, since it was put together."""
    return await _settle(
        tx,
        due,
        replica,
        {
            "version": version.number,
            "version_at": version.at,
            "version_count": version.count,
            "version_hash": version.content_hash,
            "manifest_key": version.manifest_key,
            "attributes": version.attributes,
            "evidence": [each.model_dump(mode="json") for each in version.signs],
            "score": version.score,
        },
    )


async def settle(tx: AsyncSession, due: Due, replica: str) -> bool:
    """Let a study's last version stand, as nothing differs from it. False as for `record`."""
    return await _settle(tx, due, replica, {})


async def _settle(tx: AsyncSession, due: Due, replica: str, values: Mapping[str, Any]) -> bool:
    done = await tx.scalars(
        update(studies)
        .where(
            studies.c.id == due.id,
            studies.c.revision == due.revision,
            studies.c.version == due.version,
            studies.c.leased_by == replica,
            studies.c.attempt == due.attempt,
        )
        .values(
            **values,
            due_at=None,
            pending_since=None,
            broken_at=None,
            leased_by=None,
            leased_until=None,
            attempt=None,
        )
        .returning(studies.c.id)
    )
    return done.first() is not None


async def in_hand_elsewhere(tx: AsyncSession, due: Collection[Study], replica: str, since: datetime) -> set[Study]:
    """Give those studies of which another replica has something in hand, and has said so since a time.

    Besides, those of which anything was acknowledged from the object store and is not indexed, by any replica.
    """
    elsewhere = select(open_work.c.tenant, open_work.c.study_uid).where(
        tuple_(open_work.c.tenant, open_work.c.study_uid).in_(due),
        open_work.c.replica != replica,
        open_work.c.renewed_at > since,
    )
    acknowledged = select(received.c.tenant, received.c.study_uid).where(
        tuple_(received.c.tenant, received.c.study_uid).in_(due)
    )
    return {(tenant, uid) for query in (elsewhere, acknowledged) for tenant, uid in await tx.execute(query)}


async def note_broken(tx: AsyncSession, broken: Mapping[Study, datetime]) -> None:
    """Note of studies when something of them arrived last on an association that was broken off then."""
    earlier = or_(studies.c.broken_at.is_(None), studies.c.broken_at < bindparam("at"))
    await (await tx.connection()).execute(
        update(studies)
        .where(studies.c.tenant == bindparam("of"), studies.c.study_uid == bindparam("uid"), earlier)
        .values(broken_at=bindparam("at")),
        [{"of": tenant, "uid": uid, "at": at} for (tenant, uid), at in sorted(broken.items())],
    )


def _due(row: Row[Any], attempt: str) -> Due:
    return Due(
        id=row.id,
        tenant=row.tenant,
        study_uid=row.study_uid,
        revision=row.revision,
        version=row.version,
        version_count=row.version_count,
        manifest_key=row.manifest_key,
        first_arrival=utc(row.first_arrival),
        last_arrival=utc(row.last_arrival),
        pending_since=None if row.pending_since is None else utc(row.pending_since),
        broken_at=None if row.broken_at is None else utc(row.broken_at),
        announced=row.announced,
        source=Source.model_validate(row.source),
        sites=tuple(row.sites),
        attempt=attempt,
        left=row.attempt,
    )
