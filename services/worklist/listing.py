"""What people see of orders, patients' merges and messages. Every function works in its caller's transaction."""

from collections.abc import Collection, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Row, and_, literal, or_, select, tuple_
from sqlalchemy.ext.asyncio import AsyncSession

from libs.web.principal import Principal
from services.worklist.attributes import Attributes
from services.worklist.body import read_said
from services.worklist.change import Number
from services.worklist.models import changes, items, merges, order_numbers, orders, patients, studies

#: Identifiers that one statement names at most.
_AT_A_TIME = 500
#: The patient that an order names; it may have been merged into another one.
_NAMED = select(
    orders,
    patients.c.value.label("patient"),
    patients.c.issuer.label("issuer"),
    patients.c.site.label("patient_site"),
).join(patients, patients.c.id == orders.c.patient_id)


def within(caller: Principal, table: Any = orders) -> ColumnElement[bool]:
    """Tell which rows are in the caller's scope."""
    inside: list[ColumnElement[bool]] = [literal(value=True)]
    if caller.tenants is not None:
        inside.append(table.c.tenant.in_(caller.tenants))
    if caller.sites is not None:
        inside.append(table.c.site.in_(caller.sites))
    return and_(*inside)


async def list_orders(
    tx: AsyncSession, conditions: Sequence[ColumnElement[bool]], before: int | None, limit: int
) -> Sequence[Row[Any]]:
    """Give orders, the newest first; those that are a part of others not."""
    wanted = [orders.c.joined_into.is_(None), *conditions]
    if before is not None:
        wanted.append(orders.c.id < before)
    return (await tx.execute(_NAMED.where(*wanted).order_by(orders.c.id.desc()).limit(limit))).all()


def of_patient(value: str) -> ColumnElement[bool]:
    """Tell whether an order is of a patient by identifier, or by one that is the same patient's by merges."""
    named = select(patients.c.id, patients.c.merged_into).where(patients.c.value == value).cte(recursive=True)
    other = patients.alias()
    near = or_(other.c.merged_into == named.c.id, other.c.id == named.c.merged_into)
    same = named.union(select(other.c.id, other.c.merged_into).join(named, near))
    return orders.c.patient_id.in_(select(same.c.id))


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


async def studies_of(tx: AsyncSession, order_id: int) -> Sequence[Row[Any]]:
    """Give the studies that belong to an order."""
    statement = select(studies).where(studies.c.order_id == order_id)
    return (await tx.execute(statement.order_by(studies.c.first_seen_at, studies.c.id))).all()


async def numbers_of(tx: AsyncSession, order_id: int, site: str) -> tuple[str, dict[str, Number]]:
    """Give a number by which an order can be named, by its kind, and the site at which it is known by that."""
    rows = (await tx.execute(select(order_numbers).where(order_numbers.c.order_id == order_id))).all()
    best = min(rows, key=lambda row: ("placer", "filler", "floating", "accession").index(row.kind))
    kind = "accession" if best.kind == "floating" else best.kind
    if best.scope.startswith("@"):
        return best.scope[1:], {kind: Number(best.value)}
    return site, {kind: Number(best.value, best.scope)}


async def said_of_patients(tx: AsyncSession, tenant: str, numbers: Sequence[Number]) -> dict[Number, Attributes]:
    """Give what is known of patients under their identifiers, or under those that they were merged into."""
    found: dict[Number, Attributes] = {}
    number_of = (patients.c.value, patients.c.issuer, patients.c.site)
    columns = (patients.c.id, *number_of, patients.c.said, patients.c.merged_into)
    for start in range(0, len(numbers), _AT_A_TIME):
        values = [number.value for number in numbers[start : start + _AT_A_TIME]]
        wanted = select(*columns).where(patients.c.tenant == tenant, patients.c.value.in_(values))
        for row in (await tx.execute(wanted)).all():
            number, kept = Number(row.value, row.issuer, row.site), row
            while kept.merged_into is not None:
                kept = (await tx.execute(select(*columns).where(patients.c.id == kept.merged_into))).one()
            if number in numbers[start : start + _AT_A_TIME]:
                found[number] = {keyword: values for keyword, (_, values) in read_said(kept.said).items()}
    return found


async def messages_of_placers(
    tx: AsyncSession, keys: Collection[tuple[str, str, str]], prefix: str
) -> dict[tuple[str, str, str], list[str]]:
    """Give the names, with a prefix, of what was said of orders, in the order in which it counts.

    Parameters
    ----------
    keys
        Tenant, value and scope of the orders' placer numbers.
    """
    table = order_numbers.c
    said = (
        select(table.tenant, table.value, table.scope, changes.c.message)
        .join(changes, changes.c.order_id == table.order_id)
        .where(
            table.kind == "placer",
            tuple_(table.tenant, table.value, table.scope).in_(sorted(keys)),
            changes.c.message.like(f"{prefix}%"),
        )
        .order_by(changes.c.stamp, changes.c.source, changes.c.message, changes.c.part)
    )
    found: dict[tuple[str, str, str], list[str]] = {}
    for row in await tx.execute(said):
        found.setdefault((row.tenant, row.value, row.scope), []).append(row.message)
    return found


def _labelled(table: Any, name: str) -> list[ColumnElement[str]]:
    """Give a patient's identifier, its issuer and its site under names of their own."""
    number = table.c
    return [
        number.value.label(name),
        number.issuer.label(f"{name}_issuer"),
        number.site.label(f"{name}_site"),
    ]


async def list_merges(
    tx: AsyncSession, caller: Principal, *, undone: bool, before: int | None, limit: int
) -> Sequence[Row[Any]]:
    """Give merges of patients, the newest first."""
    kept, merged = patients.alias(), patients.alias()
    statement = (
        select(merges, *_labelled(kept, "kept"), *_labelled(merged, "merged"))
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
