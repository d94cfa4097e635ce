"""SQL of orders, patients and items. Every function works in its caller's transaction."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import Row, bindparam, delete, insert, or_, select, tuple_, update
from sqlalchemy.ext.asyncio import AsyncSession

from libs.messaging.inbox import insert as insert_or
from services.worklist import body
from services.worklist.change import Change, Number, OrderChange, Origin, PatientMerge
from services.worklist.ledger import Entry, Item, Key, Patient, keys_of
from services.worklist.models import changes, counters, items, merges, messages, order_numbers, orders, patients
from services.worklist.order import OPEN
from services.worklist.patient import place

#: Columns of `items` that a revision is for.
ITEM_COLUMNS = ("tenant", "site", "order_id", "step_id", "state", "start", "station_aets", "modality", "attributes")


@dataclass
class Counters:
    """The last numbers that were given out; this transaction alone gives more."""

    revision: int
    rows: int

    def next_revision(self) -> int:
        """Give the next revision."""
        self.revision += 1
        return self.revision

    def next_row(self) -> int:
        """Give the identifier of a new row."""
        self.rows += 1
        return self.rows


async def lock(tx: AsyncSession) -> Counters:
    """Become the only one that writes orders, patients and items, until the transaction ends."""
    statement = insert_or(tx, counters)
    locked = statement.on_conflict_do_update(
        index_elements=["name"], set_={"value": counters.c.value + statement.excluded.value}
    ).returning(counters.c.name, counters.c.value)
    # One after the other: two replicas never wait for each other crosswise.
    revision = (await tx.execute(locked, {"name": "revision", "value": 0})).one().value
    rows = (await tx.execute(select(counters.c.value).where(counters.c.name == "rows"))).scalar_one_or_none()
    return Counters(revision, rows or 0)


async def give_back(tx: AsyncSession, given: Counters) -> None:
    """Write down which numbers were given out."""
    statement = insert_or(tx, counters)
    await tx.execute(
        statement.on_conflict_do_update(index_elements=["name"], set_={"value": statement.excluded.value}),
        [{"name": "revision", "value": given.revision}, {"name": "rows", "value": given.rows}],
    )


async def answered(tx: AsyncSession, keys: Iterable[tuple[str, str, str]]) -> Mapping[tuple[str, str, str], Any]:
    """Give what was received before, by source, control identifier and digest."""
    key = (messages.c.source, messages.c.control_id, messages.c.digest)
    rows = await tx.execute(select(*key, messages.c.outcomes).where(tuple_(*key).in_(sorted(set(keys)))))
    return {(row.source, row.control_id, row.digest): row for row in rows}


async def load(tx: AsyncSession, said: Sequence[Change]) -> tuple[list[Patient], list[Entry]]:
    """Read all that changes are about: see `Ledger`."""
    named = set()
    for change in said:
        numbers = (change.kept, change.merged) if isinstance(change, PatientMerge) else (change.patient,)
        named |= {(change.tenant, number.value, number.issuer) for number in numbers}
    rows = await _families(tx, await _patients(tx, named))
    keys = {key for change in said if isinstance(change, OrderChange) for key in _with_counterparts(keys_of(change))}
    ids = await _orders_with(tx, keys)
    if rows:
        concerned = orders.c.patient_id.in_(list(rows)) & orders.c.state.in_(OPEN) & orders.c.joined_into.is_(None)
        ids |= set(await tx.scalars(select(orders.c.id).where(concerned)))
    names = await _numbers(tx, ids)
    floating: set[Key] = {
        (key[0], "floating", key[2], key[3]) for those in names.values() for key in those if key[1] == "accession"
    }
    more = await _orders_with(tx, floating) - ids
    names |= await _numbers(tx, more)
    entries = await _entries(tx, ids | more, names)
    mentioned = {
        (entry.tenant, change.patient.value, change.patient.issuer)
        for entry in entries
        for change in entry.changes.values()
    }
    rows |= await _families(tx, await _patients(tx, mentioned - named))
    return [_patient(row) for row in rows.values()], entries


def _with_counterparts(keys: Iterable[Key]) -> set[Key]:
    found: set[Key] = set()
    for tenant, kind, value, scope in keys:
        found.add((tenant, kind, value, scope))
        if kind in ("accession", "floating"):
            found |= {(tenant, "accession", value, scope), (tenant, "floating", value, scope)}
    return found


async def _patients(tx: AsyncSession, named: Iterable[tuple[str, str, str]]) -> dict[int, Row[Any]]:
    wanted = sorted(named)
    if not wanted:
        return {}
    key = tuple_(patients.c.tenant, patients.c.value, patients.c.issuer)
    return {row.id: row for row in await tx.execute(select(patients).where(key.in_(wanted)))}


async def _families(tx: AsyncSession, rows: dict[int, Row[Any]]) -> dict[int, Row[Any]]:
    """Add all that are the same patients as these."""
    found = dict(rows)
    new = list(rows.values())
    while new:
        ups = {row.merged_into for row in new if row.merged_into is not None} - found.keys()
        condition = or_(patients.c.merged_into.in_([row.id for row in new]), patients.c.id.in_(ups))
        new = [row for row in await tx.execute(select(patients).where(condition)) if row.id not in found]
        found |= {row.id: row for row in new}
    return found


def _patient(row: Row[Any]) -> Patient:
    return Patient(row.id, row.tenant, Number(row.value, row.issuer), body.read_said(row.said), row.merged_into)


async def _orders_with(tx: AsyncSession, keys: Iterable[Key]) -> set[int]:
    wanted = sorted(keys)
    if not wanted:
        return set()
    table = order_numbers.c
    key = tuple_(table.tenant, table.kind, table.value, table.scope)
    return set(await tx.scalars(select(table.order_id).where(key.in_(wanted))))


async def _numbers(tx: AsyncSession, ids: Iterable[int]) -> dict[int, set[Key]]:
    wanted = sorted(ids)
    found: dict[int, set[Key]] = {each: set() for each in wanted}
    if wanted:
        for row in await tx.execute(select(order_numbers).where(order_numbers.c.order_id.in_(wanted))):
            found[row.order_id].add((row.tenant, row.kind, row.value, row.scope))
    return found


async def _entries(tx: AsyncSession, ids: Iterable[int], numbers: Mapping[int, set[Key]]) -> list[Entry]:
    wanted = sorted(ids)
    if not wanted:
        return []
    entries = {}
    for row in await tx.execute(select(orders).where(orders.c.id.in_(wanted))):
        columns = row._asdict()
        entries[row.id] = Entry(row.id, row.tenant, numbers=set(numbers[row.id]), columns=columns)
    for row in await tx.execute(select(changes).where(changes.c.order_id.in_(wanted))):
        change = body.read_order(row.body, row.tenant, Origin(row.source, row.message, row.part, row.stamp))
        entries[row.order_id].changes[place(change.origin)] = change
    for row in await tx.execute(select(items).where(items.c.order_id.in_(wanted)).order_by(items.c.id)):
        columns = {name: getattr(row, name) for name in ITEM_COLUMNS}
        entries[row.order_id].items.append(Item(row.id, row.step_id, row.performed, columns))
    return list(entries.values())


async def save_patients(tx: AsyncSession, those: Iterable[Patient], new: Iterable[Patient], now: datetime) -> None:
    """Write patients."""
    made = {patient.id for patient in new}
    rows = [
        {
            "id": one.id,
            "tenant": one.tenant,
            "value": one.number.value,
            "issuer": one.number.issuer,
            "said": one.said,
            "merged_into": one.merged_into,
            "changed_at": now,
        }
        for one in those
    ]
    # A merged patient refers to the one that is kept, which may be new too.
    inserts = [{**row, "merged_into": None} for row in rows if row["id"] in made]
    if inserts:
        await tx.execute(insert(patients), inserts)
    changed = [
        {"row": row["id"], "says": row["said"], "into": row["merged_into"], "at": now}
        for row in rows
        if row["id"] not in made or row["merged_into"] is not None
    ]
    if changed:
        statement = update(patients).where(patients.c.id == bindparam("row"))
        values: dict[str, Any] = {
            "said": bindparam("says"),
            "merged_into": bindparam("into"),
            "changed_at": bindparam("at"),
        }
        await (await tx.connection()).execute(statement.values(values), changed)


async def save_merges(tx: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the journal of merges."""
    if rows:
        await tx.execute(insert(merges), rows)


@dataclass(frozen=True)
class OpenMerge:
    """A merge that holds."""

    merged_id: int
    kept_id: int
    as_change: PatientMerge


async def open_merge(tx: AsyncSession, merge_id: int, tenant: str) -> OpenMerge | None:
    """Give a merge that is not undone."""
    kept, merged = patients.alias(), patients.alias()
    statement = (
        select(
            merges.c.merged_id, merges.c.kept_id, merges.c.source, merges.c.message, merges.c.merged_at,
            kept.c.value.label("kept_value"), kept.c.issuer.label("kept_issuer"),
            merged.c.value.label("merged_value"), merged.c.issuer.label("merged_issuer"),
        )
        .join(kept, kept.c.id == merges.c.kept_id)
        .join(merged, merged.c.id == merges.c.merged_id)
        .where(merges.c.id == merge_id, merges.c.tenant == tenant, merges.c.undone_at.is_(None))
    )  # fmt: skip
    row = (await tx.execute(statement)).one_or_none()
    if row is None:
        return None
    change = PatientMerge(
        Origin(row.source, row.message, 0, row.merged_at),
        tenant,
        kept=Number(row.kept_value, row.kept_issuer),
        merged=Number(row.merged_value, row.merged_issuer),
    )
    return OpenMerge(row.merged_id, row.kept_id, change)


async def close_merge(tx: AsyncSession, merge_id: int, now: datetime, who: str, reason: str | None) -> None:
    """Write down that a merge was undone."""
    done = {"undone_at": now, "undone_by": who, "reason": reason}
    await tx.execute(update(merges).where(merges.c.id == merge_id).values(**done))


async def save_orders(tx: AsyncSession, new: Sequence[Mapping[str, Any]], old: Sequence[Mapping[str, Any]]) -> None:
    """Write orders."""
    if new:
        await tx.execute(insert(orders), new)
    await _update(tx, orders, old)


async def save_items(tx: AsyncSession, new: Sequence[Mapping[str, Any]], old: Sequence[Mapping[str, Any]]) -> None:
    """Write items."""
    if new:
        await tx.execute(insert(items), new)
    await _update(tx, items, old)


async def _update(tx: AsyncSession, table: Any, rows: Sequence[Mapping[str, Any]]) -> None:
    if rows:
        names = [name for name in rows[0] if name != "id"]
        statement = update(table).where(table.c.id == bindparam("row_id"))
        statement = statement.values({name: bindparam(f"new_{name}") for name in names})
        parameters = [{"row_id": row["id"], **{f"new_{name}": row[name] for name in names}} for row in rows]
        await (await tx.connection()).execute(statement, parameters)


async def save_numbers(tx: AsyncSession, added: Iterable[tuple[int, Key]], gone: Iterable[int]) -> None:
    """Write numbers of orders; `gone`: orders that have none any more, for they became parts of others."""
    left = list(gone)
    if left:
        await tx.execute(delete(order_numbers).where(order_numbers.c.order_id.in_(left)))
    rows = [
        {"tenant": key[0], "kind": key[1], "value": key[2], "scope": key[3], "order_id": each} for each, key in added
    ]
    if rows:
        await tx.execute(insert(order_numbers), rows)


async def move_changes(tx: AsyncSession, moves: Mapping[int, int]) -> None:
    """Give what was said of orders that became parts of others to these."""
    for part, whole in moves.items():
        await tx.execute(update(changes).where(changes.c.order_id == part).values(order_id=whole))


async def save_changes(tx: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the journal of what was said."""
    if rows:
        await tx.execute(insert(changes), rows)


async def forget_messages(tx: AsyncSession, keys: Iterable[tuple[str, str, str]]) -> None:
    """Delete what was received, to be written anew."""
    those = sorted(set(keys))
    if those:
        key = tuple_(messages.c.source, messages.c.control_id, messages.c.digest)
        await tx.execute(delete(messages).where(key.in_(those)))


async def save_messages(tx: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write what was received and answered."""
    if rows:
        await tx.execute(insert(messages), rows)


async def changed_items(tx: AsyncSession, after_revision: int, limit: int) -> Sequence[Row[Any]]:
    """Give the items that were changed after a revision, in the order of their revisions.

    What has a revision up to the last one given here was visible, all of it: writers come one after the other.
    """
    statement = select(items).where(items.c.revision > after_revision).order_by(items.c.revision).limit(limit)
    return (await tx.execute(statement)).all()


async def set_performed(tx: AsyncSession, item_ids: Sequence[int], performed: str | None, now: datetime) -> None:
    """Write down what modalities report of steps: in-progress, completed or discontinued; None: nothing any more."""
    if not item_ids:
        return
    given = await lock(tx)
    rows = [
        {"id": each, "performed": performed, "revision": given.next_revision(), "changed_at": now}
        for each in sorted(item_ids)
    ]
    await _update(tx, items, rows)
    await give_back(tx, given)
