"""What people see of performed procedure steps. Every function works in its caller's transaction."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, func, select
from sqlalchemy.ext.asyncio import AsyncSession

from libs.web.principal import Principal
from services.worklist import listing
from services.worklist.models import items, mpps, mpps_forwards, mpps_items, mpps_messages


def within(caller: Principal) -> ColumnElement[bool]:
    """Tell which steps are in the caller's scope."""
    return listing.within(caller, mpps)


def naming(*, study: str | None, accession: str | None, unlinked: bool, waiting: bool) -> list[ColumnElement[bool]]:
    """Tell which steps name a study or an accession number, have no item, or have not reached a node."""
    wanted: list[ColumnElement[bool]] = []
    for column, value in ((mpps_items.c.study_instance_uid, study), (mpps_items.c.accession, accession)):
        if value is not None:
            wanted.append(mpps.c.id.in_(select(mpps_items.c.mpps_id).where(column == value)))
    if unlinked:
        wanted.append(mpps.c.id.in_(select(mpps_items.c.mpps_id).where(mpps_items.c.item_id.is_(None))))
    if waiting:
        wanted.append(mpps.c.id.in_(select(mpps_forwards.c.mpps_id).where(mpps_forwards.c.state != "done")))
    return wanted


async def steps(
    tx: AsyncSession, conditions: Sequence[ColumnElement[bool]], before: int | None, limit: int
) -> Sequence[Row[Any]]:
    """Give steps, the newest first."""
    wanted = [*conditions] if before is None else [*conditions, mpps.c.id < before]
    return (await tx.execute(select(mpps).where(*wanted).order_by(mpps.c.id.desc()).limit(limit))).all()


async def links(tx: AsyncSession, ids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """Give the scheduled steps that each names, in their order."""
    found: dict[int, list[dict[str, Any]]] = {each: [] for each in ids}
    statement = (
        select(mpps_items, items.c.order_id)
        .outerjoin(items, items.c.id == mpps_items.c.item_id)
        .where(mpps_items.c.mpps_id.in_(ids))
        .order_by(mpps_items.c.mpps_id, mpps_items.c.number)
    )
    for row in await tx.execute(statement):
        found[row.mpps_id].append(dict(row._asdict()))
    return found


async def forwards(tx: AsyncSession, ids: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """Give the nodes that get each, by name."""
    found: dict[int, list[dict[str, Any]]] = {each: [] for each in ids}
    statement = select(mpps_forwards).where(mpps_forwards.c.mpps_id.in_(ids)).order_by(mpps_forwards.c.node)
    for row in await tx.execute(statement):
        one = dict(row._asdict())
        found[row.mpps_id].append(one if one["state"] == "open" else one | {"due_at": None})
    return found


async def messages(tx: AsyncSession, mpps_id: int) -> Sequence[Row[Any]]:
    """Give the requests that were taken, without their datasets."""
    columns = [mpps_messages.c[name] for name in ("number", "calling_aet", "received_at", "transfer_syntax_uid")]
    size = func.length(mpps_messages.c.dataset).label("size")
    statement = select(*columns, size).where(mpps_messages.c.mpps_id == mpps_id).order_by(mpps_messages.c.number)
    return [*await tx.execute(statement)]
