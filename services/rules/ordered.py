"""What was ordered, as worklist told it: kept, and found again for a study. Works in its caller's transaction."""

from collections.abc import Mapping
from datetime import datetime
from functools import cache
from typing import Any, Final

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.fact import Attributes
from contracts.order import OrderCancelled, OrderChanged, OrderPlaced
from services.rules.models import completions, orders, studies

Told = OrderPlaced | OrderChanged | OrderCancelled
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
        "reason": told.reason,
    }
    return {name: value for name, value in known.items() if value}


@cache
def _keeping(dialect: str) -> Any:
    """Give the statement that keeps an order: made once, for to make it takes longer than to run it."""
    statement = (postgresql if dialect == "postgresql" else sqlite).insert(orders)
    known = ("tenant", "study_instance_uid")
    return statement.on_conflict_do_update(
        index_elements=known,
        set_={name: statement.excluded[name] for name in orders.c.keys() if name not in known},  # noqa: SIM118 - not a mapping
        where=orders.c.revision <= statement.excluded.revision,
    ).returning(orders.c.revision)


async def keep(tx: AsyncSession, tenant: str, told: Told, cancelled: bool, at: datetime) -> bool:
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
    }
    if (await tx.execute(_keeping(tx.get_bind().dialect.name), values)).first() is None:
        return False
    former = [uid for uid in told.former_study_instance_uids if uid != told.study_instance_uid]
    if former:
        older = orders.c.revision < (told.revision or 0)
        await tx.execute(
            delete(orders).where(orders.c.tenant == tenant, orders.c.study_instance_uid.in_(former), older)
        )
    return True


async def of_study(tx: AsyncSession, tenant: str, uid: str, attributes: Attributes) -> Mapping[str, str]:
    """Give what conditions read of a study's order: by its UID, else by its accession number; nothing without one.

    Of several orders with one accession number that of the study's patient counts.
    """
    alive = (orders.c.tenant == tenant) & (orders.c.state != "cancelled")
    row = (await tx.execute(select(orders).where(alive, orders.c.study_instance_uid == uid))).one_or_none()
    if row is not None:
        return dict(row.fields)
    accession = _text(attributes, "AccessionNumber")
    if not accession:
        return {}
    rows = (await tx.execute(select(orders).where(alive, orders.c.accession == accession).limit(20))).all()
    found = [one for one in rows if one.patient_id == _text(attributes, "PatientID")] or list(rows)
    return dict(found[0].fields) if len(found) == 1 else {}


async def studies_of(tx: AsyncSession, tenant: str, told: Told) -> list[int]:
    """Give the studies that an order is for, as far as they have come."""
    wanted = (studies.c.tenant == tenant) & (studies.c.study_instance_uid == told.study_instance_uid)
    found = set(await tx.scalars(select(studies.c.id).where(wanted)))
    if told.accession_number:
        # Few studies of late wait for an order: their decided versions tell their accession numbers.
        named = completions.c.completed["attributes"]["AccessionNumber"].as_string() == told.accession_number
        same = select(completions.c.study_id).join(studies, studies.c.id == completions.c.study_id)
        found |= set(await tx.scalars(same.where(studies.c.tenant == tenant, completions.c.state == "decided", named)))
    return sorted(found)


async def forget(tx: AsyncSession, before: datetime) -> None:
    """Forget orders of which nothing was told for long."""
    await tx.execute(delete(orders).where(orders.c.changed_at < before))


def _text(attributes: Attributes, keyword: str) -> str:
    value = attributes.get(keyword, "")
    return str(value).strip() if not isinstance(value, list) else (str(value[0]).strip() if value else "")
