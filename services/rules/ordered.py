"""What was ordered, as worklist told it: kept, and found again for a study. Works in its caller's transaction."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from functools import cache
from typing import Any, Final

from sqlalchemy import ColumnElement, delete, insert, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.fact import Attributes
from contracts.order import OrderCancelled, OrderChanged, OrderPlaced
from libs.messaging.inbox import insert_of
from services.rules.models import completions, order_links, orders, studies

Told = OrderPlaced | OrderChanged | OrderCancelled
#: Most orders that are looked at for a study.
MOST: Final = 40
#: Requested Procedure Priority (0040,1003) of a lane, where the order says none.
_WORDS: Final = {"stat": "STAT", "urgent": "HIGH", "routine": "ROUTINE", "bulk": "LOW"}


def fields(told: Told) -> dict[str, str]:
    """Give what conditions read of an order; what it does not say is left out."""
    known = {
        "accession": told.accession_number,
        "priority": told.requested_priority or _WORDS[told.priority],
        "modality": told.modality,
        "station": told.station_aet,
        "procedure": told.procedure,
        "code": told.code,
        "physician": told.physician,
        "service": told.service,
        "location": told.location,
        "patient_class": told.patient_class,
        "reason": told.reason,
    }
    return {name: value for name, value in known.items() if value}


@cache
def _keeping(dialect: str) -> Any:
    """Give the statement that keeps an order: made once, for to make it takes longer than to run it."""
    statement = insert_of(dialect, orders)
    known = ("tenant", "study_instance_uid")
    return statement.on_conflict_do_update(
        index_elements=known,
        set_={name: statement.excluded[name] for name in orders.c.keys() if name not in known},  # noqa: SIM118 - not a mapping
        where=orders.c.revision <= statement.excluded.revision,
    ).returning(orders.c.revision)


async def keep(tx: AsyncSession, tenant: str, site: str | None, told: Told, *, cancelled: bool, at: datetime) -> bool:
    """Keep what was told of an order; False: something newer is known."""
    values = {
        "tenant": tenant,
        "study_instance_uid": told.study_instance_uid,
        "accession": told.accession_number,
        "patient_id": told.patient_id,
        "state": told.state or ("cancelled" if cancelled else "scheduled"),
        "revision": told.revision or 0,
        "fields": fields(told),
        "changed_at": at,
        "site": site,
    }
    if (await tx.execute(_keeping(tx.get_bind().dialect.name), values)).first() is None:
        return False
    former = [uid for uid in told.former_study_instance_uids if uid != told.study_instance_uid]
    if former:
        older = orders.c.revision < (told.revision or 0)
        await tx.execute(
            delete(orders).where(orders.c.tenant == tenant, orders.c.study_instance_uid.in_(former), older)
        )
    await _keep_links(tx, tenant, told, [told.study_instance_uid, *former])
    return True


async def _keep_links(tx: AsyncSession, tenant: str, told: Told, known_as: Sequence[str]) -> None:
    links = dict.fromkeys(told.unlinked_study_instance_uids, False)
    links |= dict.fromkeys(told.linked_study_instance_uids, True)
    if not links and type(told) is OrderPlaced:
        return
    table = order_links.c
    await tx.execute(delete(order_links).where(table.tenant == tenant, table.order_uid.in_(known_as)))
    if links:
        row = {"tenant": tenant, "order_uid": told.study_instance_uid}
        rows = [{**row, "study_instance_uid": uid, "bound": bound} for uid, bound in sorted(links.items())]
        await tx.execute(insert(order_links), rows)


async def of_study(
    tx: AsyncSession, tenant: str, uid: str, site: str | None, attributes: Attributes
) -> Mapping[str, str]:
    """Give what conditions read of a study's order; nothing without one.

    It is the one that it is linked to without a number, else that with its UID, else that with its accession number: of
    several that of the study's patient, of another site only that, as sites count by themselves. An order of which a
    person has said that the study is not its own is none of these.
    """
    alive = (orders.c.tenant == tenant) & (orders.c.state != "cancelled")
    wanted = (order_links.c.tenant == tenant) & (order_links.c.study_instance_uid == uid)
    links = {row.order_uid: row.bound for row in await tx.execute(select(order_links).where(wanted))}
    accession = _text(attributes, "AccessionNumber")
    named = orders.c.study_instance_uid.in_([uid, *links])
    keys: list[ColumnElement[bool]] = [named]
    if accession:
        keys.append(orders.c.accession == accession)
    rows = (await tx.execute(select(orders).where(alive, or_(*keys)).order_by(named.desc()).limit(MOST))).all()
    if len(rows) == MOST:
        # One number stands for many, perhaps for all that have none: whether one of them is the only one isn't known.
        rows = [row for row in rows if row.study_instance_uid in (uid, *links)]
    rows = [row for row in rows if links.get(row.study_instance_uid, True)]
    patient = _text(attributes, "PatientID")
    near = [row for row in rows if row.site in (site, None) or row.patient_id == patient]
    same = [row for row in near if accession and row.accession == accession]
    for found in (
        [row for row in rows if row.study_instance_uid in links],
        [row for row in rows if row.study_instance_uid == uid],
        [row for row in same if row.patient_id == patient] or same,
    ):
        if len(found) == 1:
            return dict(found[0].fields)
    return {}


async def studies_of(tx: AsyncSession, tenant: str, told: Told) -> list[int]:
    """Give the studies that an order is for, as far as they have come."""
    uids = {told.study_instance_uid, *told.linked_study_instance_uids}
    wanted = (studies.c.tenant == tenant) & studies.c.study_instance_uid.in_(sorted(uids))
    found = set(await tx.scalars(select(studies.c.id).where(wanted)))
    if told.accession_number:
        # Few studies of late wait for an order: their decided versions tell their accession numbers.
        named = completions.c.completed["attributes"]["AccessionNumber"].as_string() == told.accession_number
        same = select(completions.c.study_id).join(studies, studies.c.id == completions.c.study_id)
        found |= set(await tx.scalars(same.where(studies.c.tenant == tenant, completions.c.state == "decided", named)))
    return sorted(found)


async def forget(tx: AsyncSession, before: datetime) -> None:
    """Forget orders of which nothing was told for long."""
    gone = select(orders.c.study_instance_uid).where(
        orders.c.tenant == order_links.c.tenant,
        orders.c.study_instance_uid == order_links.c.order_uid,
        orders.c.changed_at < before,
    )
    await tx.execute(delete(order_links).where(gone.exists()))
    await tx.execute(delete(orders).where(orders.c.changed_at < before))


def _text(attributes: Attributes, keyword: str) -> str:
    value = attributes.get(keyword, "")
    return str(value).strip() if not isinstance(value, list) else (str(value[0]).strip() if value else "")
