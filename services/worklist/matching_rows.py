"""SQL of orders that meet studies. Every function works in its caller's transaction."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import ColumnElement, Row, and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from libs.messaging.inbox import insert as insert_or
from services.worklist.match import NEAR, Candidate, Found
from services.worklist.models import items, orders, patients, studies
from services.worklist.patient_rows import families, numbers_of

#: Orders that a study is expected of.
_EXPECTED = ("scheduled", "arrived", "started", "completed")
#: Most orders that are looked at for a study, and most studies for orders that were written together.
MOST: Final = 200
#: How far from a study's arrival, in UTC, an order of its patient may start: wider than `match.NEAR` in any time zone.
_AROUND: Final = NEAR + timedelta(days=1)


async def keep_study(tx: AsyncSession, values: Mapping[str, Any]) -> Row[Any]:
    """Write a study down, or what is new of it; give its row."""
    statement = insert_or(tx, studies).values(**values)
    changed = {
        name: getattr(statement.excluded, name)
        for name in ("accession", "patient", "issuer", "modality", "completed_at")
    }
    await tx.execute(statement.on_conflict_do_update(index_elements=["tenant", "study_instance_uid"], set_=changed))
    key = (studies.c.tenant == values["tenant"]) & (studies.c.study_instance_uid == values["study_instance_uid"])
    return (await tx.execute(select(studies).where(key))).one()


async def unmatched_for(
    tx: AsyncSession, tenant: str, uids: Iterable[str], accessions: Iterable[str]
) -> Sequence[Row[Any]]:
    """Give studies that may be those of orders just written: without an order, or with one that no number names.

    Of more than can be looked at those with the orders' own UIDs, and the latest.
    """
    named = studies.c.study_instance_uid.in_(list(uids))
    alone = or_(studies.c.order_id.is_(None), studies.c.matched_by == "patient")
    wanted = and_(studies.c.tenant == tenant, alone, or_(named, studies.c.accession.in_(list(accessions))))
    newest = select(studies).where(wanted).order_by(named.desc(), studies.c.id.desc())
    return (await tx.execute(newest.limit(MOST))).all()


async def candidates(tx: AsyncSession, study: Row[Any]) -> list[Candidate]:
    """Give the orders that a study may belong to.

    Of more than can be looked at, as where one accession number stands for all that have none, only those with the
    study's own UID: whether another is the only one of its kind isn't known then.
    """
    same = (patients.c.tenant == study.tenant) & (patients.c.value == study.patient)
    family = await families(tx, same) if study.patient else []
    named = orders.c.study_instance_uid == study.study_instance_uid
    keys = [named]
    if study.accession:
        keys.append(orders.c.accession == study.accession)
    if family:
        start, end = ((study.first_seen_at + days).strftime("%Y%m%d%H%M%S") for days in (-_AROUND, _AROUND))
        mine = orders.c.patient_id.in_([row.id for row in family])
        keys.append(mine & orders.c.state.in_(_EXPECTED) & orders.c.start.between(start, end))
    wanted = and_(orders.c.tenant == study.tenant, orders.c.joined_into.is_(None), or_(*keys))
    rows = (await tx.execute(select(orders).where(wanted).order_by(named.desc()).limit(MOST))).all()
    if len(rows) == MOST:
        rows = [row for row in rows if row.study_instance_uid == study.study_instance_uid]
    ids = [row.id for row in rows]
    modalities: dict[int, set[str]] = {each: set() for each in ids}
    for item in await tx.execute(select(items.c.order_id, items.c.modality).where(items.c.order_id.in_(ids))):
        modalities[item.order_id].add(item.modality)
    taken = set(
        await tx.scalars(select(studies.c.order_id).where(studies.c.order_id.in_(ids), studies.c.id != study.id))
    )
    numbers = await numbers_of(tx, {row.patient_id for row in rows})
    return [
        Candidate(
            row.id,
            row.study_instance_uid,
            row.accession,
            numbers[row.patient_id],
            row.site,
            modalities[row.id],
            local(row.start),
            taken=row.id in taken,
            over=row.state not in _EXPECTED,
        )
        for row in rows
    ]


def local(start: str) -> datetime | None:
    """Read a start by the clock of its site."""
    try:
        return datetime.strptime(start, "%Y%m%d%H%M%S")  # noqa: DTZ007 - by the clock of the site
    except ValueError:
        return None


async def with_studies(tx: AsyncSession, order_ids: Collection[int]) -> set[int]:
    """Give those of orders that have studies."""
    if not order_ids:
        return set()
    return set(await tx.scalars(select(studies.c.order_id).where(studies.c.order_id.in_(order_ids))))


async def link(tx: AsyncSession, study_id: int, found: Found) -> None:
    """Write down to which order a study belongs."""
    values = {"order_id": found.order_id, "matched_by": found.how, "contradicts": found.contradicts}
    await tx.execute(update(studies).where(studies.c.id == study_id).values(**values))


def _with_orders() -> Any:
    """Tell whether a study came from a site that has orders: of no other one is expected."""
    return select(orders.c.id).where(orders.c.site == studies.c.site, orders.c.tenant == studies.c.tenant).exists()


def _astray(since: datetime, until: datetime) -> tuple[ColumnElement[bool], ...]:
    # An order may still come; another patient's order is wrong at once.
    alone = studies.c.order_id.is_(None) & (studies.c.completed_at < until) & _with_orders()
    return or_(alone, studies.c.contradicts), studies.c.completed_at >= since


async def studies_without(
    tx: AsyncSession, conditions: Sequence[Any], since: datetime, until: datetime, limit: int
) -> Sequence[Row[Any]]:
    """Give studies that were complete between two moments and have no order, or since then with another patient's."""
    wanted = (*_astray(since, until), *conditions)
    return (await tx.execute(select(studies).where(*wanted).order_by(studies.c.id.desc()).limit(limit))).all()


async def orders_without(
    tx: AsyncSession, conditions: Sequence[Any], since: str, until: str, limit: int
) -> Sequence[Row[Any]]:
    """Give orders without a study whose start is between two moments, YYYYMMDDHHMMSS by the clocks of their sites."""
    wanted = (
        orders.c.joined_into.is_(None),
        orders.c.state.in_(_EXPECTED),
        orders.c.start >= since,
        orders.c.start < until,
        ~select(studies.c.id).where(studies.c.order_id == orders.c.id).exists(),
        *conditions,
    )
    return (await tx.execute(select(orders).where(*wanted).order_by(orders.c.start.desc()).limit(limit))).all()


async def patients_of(tx: AsyncSession, order_id: int) -> Collection[tuple[str, str]]:
    """Give all identifiers of an order's patient, each with its issuer."""
    own = await tx.scalar(select(orders.c.patient_id).where(orders.c.id == order_id))
    return {number for those in (await numbers_of(tx, [own] if own else [])).values() for number in those}


async def matched_of(tx: AsyncSession, patient_ids: Iterable[int]) -> Sequence[Row[Any]]:
    """Give studies that matching has given to orders of patients, or of any that are the same as these."""
    family = await families(tx, patients.c.id.in_(sorted(patient_ids)))
    mine = orders.c.patient_id.in_([row.id for row in family])
    wanted = select(studies).join(orders, orders.c.id == studies.c.order_id).where(mine, studies.c.matched_by != "hand")
    return (await tx.execute(wanted)).all()


async def contradict(tx: AsyncSession, study_id: int, contradicts: bool) -> None:
    """Write down whether a study and its order name different patients."""
    await tx.execute(update(studies).where(studies.c.id == study_id).values(contradicts=contradicts))


async def count_astray(
    tx: AsyncSession, since: datetime, until: datetime, order_since: str, order_until: str
) -> tuple[int, int]:
    """Count studies without order, and orders without study."""
    came = select(func.count()).select_from(studies).where(*_astray(since, until))
    overdue = (
        select(func.count())
        .select_from(orders)
        .where(
            orders.c.joined_into.is_(None),
            orders.c.state.in_(_EXPECTED),
            orders.c.start >= order_since,
            orders.c.start < order_until,
            ~select(studies.c.id).where(studies.c.order_id == orders.c.id).exists(),
        )
    )
    return await tx.scalar(came) or 0, await tx.scalar(overdue) or 0
