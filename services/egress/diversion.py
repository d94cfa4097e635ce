"""One delivery goes to another destination instead: by failover, or because a person wants it."""

from datetime import datetime
from typing import Any, Final

from sqlalchemy import ColumnElement, Row
from sqlalchemy.ext.asyncio import AsyncSession

from services.egress import joint, report, repository
from services.egress.deliveries import WORK, Deliveries
from services.egress.delivery import delivery_id
from services.egress.models import deliveries as table

#: What a person can have sent elsewhere. What was diverted already is ordered about where it goes now.
REDIRECTABLE: Final = table.c.state.in_(("open", "waiting", "held", "failed", "cancelled"))


async def divert(
    deliveries: Deliveries,
    tx: AsyncSession,
    key: str,
    to: str,
    now: datetime,
    *,
    fitting: ColumnElement[bool],
    by: str | None,
    why: str | None,
) -> bool:
    """Have a delivery go to another destination, and tell it; False if it does not fit (any more), or must not.

    It is done in the caller's transaction, and any number of times with the same outcome. What is under way comes to
    its end. `by` is nobody for a failover, which never takes back what a person ordered for the other delivery.
    """
    row = await repository.read_delivery(tx, key)
    if row is None:
        return False
    other_key = delivery_id(row.tenant, row.study_instance_uid, to)
    for each in sorted((key, other_key)):
        # In the order in which everybody locks.
        await repository.lock_delivery(tx, each)
    if not await repository.lock_fitting(tx, key, fitting):
        return False
    other = await repository.read_delivery(tx, other_key)
    if other is not None:
        if by is None and await _unwanted(tx, other):
            return False
        if other.diverted_to is not None and (by is not None or await joint.leads_to(tx, other, row.destination)):
            # It would go round in a circle, or not to where the person wants it.
            await deliveries.go_alone(tx, other, by or "egress", f"sent to {to} after all")
            await repository.update_delivery(tx, other_key, **joint.anew(now))
            if not await repository.lock_fitting(tx, key, fitting):
                # It had only taken over what now goes there by itself.
                await deliveries.reconsider(tx, other_key)
                return True
    await repository.update_delivery(
        tx,
        key,
        **joint.NO_ORDER,
        given_up=None,
        diverted_to=to,
        diverted_at=now,
        diverted_by=by,
        diverted_why=why,
        arrived_version=None,
        stays=False,
    )
    row = await repository.lock_delivery(tx, key)
    if row is None:
        raise RuntimeError("a delivery vanished while it was diverted")
    other = await joint.join(tx, row, to, now, deliveries.aim, released=by is not None)
    await joint.reckon(tx, other.id)
    await deliveries.reconsider(tx, key, lambda each: report.diverted(each, to))
    await _follow(deliveries, tx, other, now)
    tx.info[WORK] = True
    return True


async def _follow(deliveries: Deliveries, tx: AsyncSession, row: Row[Any], now: datetime) -> None:
    """Hand it on to where the other delivery went meanwhile."""
    while row.diverted_to is not None:
        following = await joint.join(tx, row, row.diverted_to, now, deliveries.aim, released=False)
        await joint.reckon(tx, following.id)
        await deliveries.reconsider(tx, row.id)
        row = following
    await deliveries.reconsider(tx, row.id)


async def _unwanted(tx: AsyncSession, other: Row[Any]) -> bool:
    """Tell whether a person decided about the other delivery so that nothing may be added to it."""
    return other.ordered == "held" or (other.ordered == "cancelled" and await joint.has_own(tx, other))
