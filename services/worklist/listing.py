"""What people see of orders, patients' merges and messages. Every function works in its caller's transaction."""

from collections.abc import Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, literal, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from libs.web.principal import Principal
from services.worklist.change import Number
from services.worklist.models import changes, items, merges, order_numbers, orders, patients

#: The patient that an order names; it may have been merged into another one.
_NAMED = select(
    orders,
    patients.c.value.label("patient"),
    patients.c.issuer.label("issuer"),
).join(patients, patients.c.id == orders.c.patient_id)


def within(caller: Principal, table: Any = orders) -> ColumnElement[bool]:
    """Tell which rows are in the caller's scope."""
    inside: list[ColumnElement[bool]] = [literal(value=True)]
    if caller.tenants is not None:
        inside.append(table.c.tenant.in_(caller.tenants))
    if caller.sites is not None:
        inside.append(table.c.site.in_(caller.sites))
    return and_(*inside)


def like(text: str) -> str:
    """Give a pattern that finds a text as it stands."""
    return text.replace("\\", "\\\\").replace("%", "\\%").replace("_", "\\_")


async def list_orders(
    tx: AsyncSession, conditions: Sequence[ColumnElement[bool]], before: int | None, limit: int
) -> Sequence[Row[Any]]:
    """Give orders, the newest first; those that are a part of others not."""
    wanted = [orders.c.joined_into.is_(None), *conditions]
    if before is not None:
        wanted.append(orders.c.id < before)
    return (await tx.execute(_NAMED.where(*wanted).order_by(orders.c.id.desc()).limit(limit))).all()


def of_patient(value: str) -> ColumnElement[bool]:
    """Tell whether an order is of a patient by identifier, merged ones included."""
    kept = patients.alias()
    own: Select[Any] = select(patients.c.id).where(patients.c.value == value)
    merged = select(patients.c.id).join(kept, patients.c.merged_into == kept.c.id).where(kept.c.value == value)
    return or_(orders.c.patient_id.in_(own), orders.c.patient_id.in_(merged))


async def find_order(tx: AsyncSession, caller: Principal, order_id: int) -> Row[Any] | None:
    """Give an order in the caller's scope."""
    return (await tx.execute(_NAMED.where(orders.c.id == order_id, within(caller)))).one_or_none()


async def items_of(tx: AsyncSession, order_ids: Sequence[int]) -> Sequence[Row[Any]]:
    """Give the items of orders."""
    statement = select(items).where(items.c.order_id.in_(order_ids))
    return (await tx.execute(statement.order_by(items.c.order_id, items.c.step_id))).all()


async def journal_of(tx: AsyncSession, order_id: int) -> Sequence[Row[Any]]:
    """Give what was said of an order, in the order in which it counts."""
    statement = select(changes).where(changes.c.order_id == order_id)
    return (
        await tx.execute(statement.order_by(changes.c.stamp, changes.c.source, changes.c.message, changes.c.part))
    ).all()


async def numbers_of(tx: AsyncSession, order_id: int, site: str) -> tuple[str, dict[str, Number]]:
    """Give a number by which an order can be named, by its kind, and the site at which it is known by that."""
    rows = (await tx.execute(select(order_numbers).where(order_numbers.c.order_id == order_id))).all()
    best = min(rows, key=lambda row: ("placer", "filler", "floating", "accession").index(row.kind))
    kind = "accession" if best.kind == "floating" else best.kind
    if best.scope.startswith("@"):
        return best.scope[1:], {kind: Number(best.value)}
    return site, {kind: Number(best.value, best.scope)}


async def list_merges(
    tx: AsyncSession, caller: Principal, *, undone: bool, before: int | None, limit: int
) -> Sequence[Row[Any]]:
    """Give merges of patients, the newest first."""
    kept, merged = patients.alias(), patients.alias()
    statement = (
        select(merges, kept.c.value.label("kept"), kept.c.issuer.label("kept_issuer"))
        .add_columns(merged.c.value.label("merged"), merged.c.issuer.label("merged_issuer"))
        .join(kept, kept.c.id == merges.c.kept_id)
        .join(merged, merged.c.id == merges.c.merged_id)
    )
    if not undone:
        statement = statement.where(merges.c.undone_at.is_(None))
    if caller.tenants is not None:
        statement = statement.where(merges.c.tenant.in_(caller.tenants))
    if before is not None:
        statement = statement.where(merges.c.id < before)
    return (await tx.execute(statement.order_by(merges.c.id.desc()).limit(limit))).all()
