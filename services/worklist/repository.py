"""SQL of orders, patients and items. Every function works in its caller's transaction."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import cache
from typing import Any, Literal, NamedTuple

from sqlalchemy import Row, Select, bindparam, delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from libs.messaging.inbox import insert_of
from libs.storage import bulk
from libs.storage.keys import find, of
from services.worklist import body
from services.worklist.change import Change, Number, OrderChange, Origin, PatientMerge
from services.worklist.ledger import Entry, Item, Key, Patient, keys_of
from services.worklist.models import changes, counters, items, merges, messages, order_numbers, orders, patients
from services.worklist.order import OPEN
from services.worklist.patient import place

#: Set on a session that has changed items: who follows them looks when it commits.
CHANGED = "kivuko.worklist.items"
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


class _Statements(NamedTuple):
    """What is read of many at once."""

    answered: Select[Any]
    patients: Select[Any]
    patients_by_id: Select[Any]
    merged_into: Select[Any]
    orders_with: Select[Any]
    open_of: Select[Any]
    numbers: Select[Any]
    orders: Select[Any]
    changes: Select[Any]
    items: Select[Any]


@cache
def _made(dialect: str) -> _Statements:
    """Make the statements once: to make one takes longer than to run it."""
    message, patient, number = messages.c, patients.c, order_numbers.c
    name = (message.source, message.control_id, message.digest)
    named = (number.tenant, number.kind, number.value, number.scope)
    is_open = orders.c.state.in_(OPEN) & orders.c.joined_into.is_(None)
    return _Statements(
        answered=find(dialect, messages, *name, give=(*name, message.outcomes)),
        patients=find(dialect, patients, patient.tenant, patient.value, patient.issuer, patient.site),
        patients_by_id=find(dialect, patients, patient.id),
        merged_into=find(dialect, patients, patient.merged_into),
        orders_with=find(dialect, order_numbers, *named, give=(number.order_id,)),
        open_of=find(dialect, orders, orders.c.patient_id, give=(orders.c.id,), where=is_open),
        numbers=find(dialect, order_numbers, number.order_id),
        orders=find(dialect, orders, orders.c.id),
        changes=find(dialect, changes, changes.c.order_id),
        items=find(dialect, items, items.c.order_id),
    )


def _statements(tx: AsyncSession) -> _Statements:
    return _made(tx.get_bind().dialect.name)


async def lock(tx: AsyncSession) -> Counters:
    """Become the only one that writes orders, patients and items, until the transaction ends."""
    # In one order: two replicas never wait for each other crosswise.
    rows = await tx.execute(_counting(tx.get_bind().dialect.name, "add"), _counts(0, 0))
    found = {row.name: row.value for row in rows}
    return Counters(found["revision"], found["rows"])


async def give_back(tx: AsyncSession, given: Counters) -> None:
    """Write down which numbers were given out."""
    await tx.execute(_counting(tx.get_bind().dialect.name, "set"), _counts(given.revision, given.rows))
    tx.info[CHANGED] = True


@cache
def _counting(dialect: str, how: Literal["add", "set"]) -> Any:
    named: list[dict[str, Any]] = [
        {"name": bindparam(f"{name}_name"), "value": bindparam(name)} for name in ("revision", "rows")
    ]
    statement = insert_of(dialect, counters).values(named)
    value = counters.c.value + statement.excluded.value if how == "add" else statement.excluded.value
    return statement.on_conflict_do_update(index_elements=["name"], set_={"value": value}).returning(
        counters.c.name, counters.c.value
    )


def _counts(revision: int, rows: int) -> dict[str, Any]:
    return {"revision_name": "revision", "revision": revision, "rows_name": "rows", "rows": rows}


async def answered(tx: AsyncSession, keys: Iterable[tuple[str, str, str]]) -> Mapping[tuple[str, str, str], Any]:
    """Give what was received before, by source, control identifier and digest."""
    rows = await tx.execute(_statements(tx).answered, of(keys))
    return {(row.source, row.control_id, row.digest): row for row in rows}


async def load(tx: AsyncSession, said: Sequence[Change]) -> tuple[list[Patient], list[Entry]]:
    """Read all that changes are about: see `Ledger`."""
    named = set()
    for change in said:
        numbers = (change.kept, change.merged) if isinstance(change, PatientMerge) else (change.patient,)
        named |= {_name(change.tenant, number) for number in numbers}
    rows = await _families(tx, await _patients(tx, named))
    keys = {key for change in said if isinstance(change, OrderChange) for key in _with_counterparts(keys_of(change))}
    ids = await _orders_with(tx, keys)
    if rows:
        ids |= set(await tx.scalars(_statements(tx).open_of, _ids(rows)))
    names = await _numbers(tx, ids)
    floating: set[Key] = {
        (key[0], "floating", key[2], key[3]) for those in names.values() for key in those if key[1] == "accession"
    }
    more = await _orders_with(tx, floating) - ids
    names |= await _numbers(tx, more)
    entries = await _entries(tx, ids | more, names)
    mentioned = {_name(entry.tenant, change.patient) for entry in entries for change in entry.changes.values()}
    rows |= await _families(tx, await _patients(tx, mentioned - named))
    return [_patient(row) for row in rows.values()], entries


def _with_counterparts(keys: Iterable[Key]) -> set[Key]:
    found: set[Key] = set()
    for tenant, kind, value, scope in keys:
        found.add((tenant, kind, value, scope))
        if kind in ("accession", "floating"):
            found |= {(tenant, "accession", value, scope), (tenant, "floating", value, scope)}
    return found


def _name(tenant: str, number: Number) -> tuple[str, str, str, str]:
    return tenant, number.value, number.issuer, number.site


async def _patients(tx: AsyncSession, named: Collection[tuple[str, str, str, str]]) -> dict[int, Row[Any]]:
    if not named:
        return {}
    return {row.id: row for row in await tx.execute(_statements(tx).patients, of(named))}


async def _families(tx: AsyncSession, rows: dict[int, Row[Any]]) -> dict[int, Row[Any]]:
    """Add all that are the same patients as these."""
    found = dict(rows)
    new = list(rows.values())
    statements = _statements(tx)
    while new:
        ups = {row.merged_into for row in new if row.merged_into is not None} - found.keys()
        near = list(await tx.execute(statements.merged_into, _ids(row.id for row in new)))
        if ups:
            near += await tx.execute(statements.patients_by_id, _ids(ups))
        new = [row for row in near if row.id not in found]
        found |= {row.id: row for row in new}
    return found


def _patient(row: Row[Any]) -> Patient:
    number = Number(row.value, row.issuer, row.site)
    return Patient(row.id, row.tenant, number, body.read_said(row.said), row.merged_into)


async def _orders_with(tx: AsyncSession, wanted: Collection[Key]) -> set[int]:
    if not wanted:
        return set()
    return set(await tx.scalars(_statements(tx).orders_with, of(wanted)))


async def _numbers(tx: AsyncSession, ids: Collection[int]) -> dict[int, set[Key]]:
    found: dict[int, set[Key]] = {each: set() for each in ids}
    if ids:
        for row in await tx.execute(_statements(tx).numbers, _ids(ids)):
            found[row.order_id].add((row.tenant, row.kind, row.value, row.scope))
    return found


async def _entries(tx: AsyncSession, ids: Collection[int], numbers: Mapping[int, set[Key]]) -> list[Entry]:
    if not ids:
        return []
    entries = {}
    statements, wanted = _statements(tx), _ids(ids)
    for row in await tx.execute(statements.orders, wanted):
        columns = row._asdict()
        entries[row.id] = Entry(row.id, row.tenant, numbers=set(numbers[row.id]), columns=columns)
    for row in await tx.execute(statements.changes, wanted):
        change = body.read_order(row.body, row.tenant, Origin(row.source, row.message, row.part, row.stamp))
        entries[row.order_id].changes[place(change.origin)] = change
    for row in sorted(await tx.execute(statements.items, wanted), key=lambda row: int(row.id)):
        columns = {name: getattr(row, name) for name in ITEM_COLUMNS}
        entries[row.order_id].items.append(Item(row.id, row.step_id, row.performed, columns))
    return list(entries.values())


def _ids(those: Iterable[int]) -> dict[str, str]:
    return of((each,) for each in those)


async def save_patients(tx: AsyncSession, those: Iterable[Patient], new: Iterable[Patient], now: datetime) -> None:
    """Write patients."""
    made = {patient.id for patient in new}
    rows = [
        {
            "id": one.id,
            "tenant": one.tenant,
            "value": one.number.value,
            "issuer": one.number.issuer,
            "site": one.number.site,
            "said": one.said,
            "merged_into": one.merged_into,
            "changed_at": now,
        }
        for one in those
    ]
    # A merged patient refers to the one that is kept, which may be new too.
    inserts = [{**row, "merged_into": None} for row in rows if row["id"] in made]
    await bulk.insert(tx, patients, inserts)
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
            kept.c.value.label("kept_value"), kept.c.issuer.label("kept_issuer"), kept.c.site.label("kept_site"),
            merged.c.value.label("merged_value"), merged.c.issuer.label("merged_issuer"),
            merged.c.site.label("merged_site"),
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
        kept=Number(row.kept_value, row.kept_issuer, row.kept_site),
        merged=Number(row.merged_value, row.merged_issuer, row.merged_site),
    )
    return OpenMerge(row.merged_id, row.kept_id, change)


async def close_merge(tx: AsyncSession, merge_id: int, now: datetime, who: str, reason: str | None) -> None:
    """Write down that a merge was undone."""
    done = {"undone_at": now, "undone_by": who, "reason": reason}
    await tx.execute(update(merges).where(merges.c.id == merge_id).values(**done))


async def save_orders(tx: AsyncSession, new: Sequence[Mapping[str, Any]], old: Sequence[Mapping[str, Any]]) -> None:
    """Write orders."""
    await bulk.insert(tx, orders, new)
    await _update(tx, orders, old)


async def save_items(tx: AsyncSession, new: Sequence[Mapping[str, Any]], old: Sequence[Mapping[str, Any]]) -> None:
    """Write items."""
    await bulk.insert(tx, items, new)
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
    await bulk.insert(tx, order_numbers, rows)


async def move_changes(tx: AsyncSession, moves: Mapping[int, int]) -> None:
    """Give what was said of orders that became parts of others to these."""
    for part, whole in moves.items():
        await tx.execute(update(changes).where(changes.c.order_id == part).values(order_id=whole))


async def save_changes(tx: AsyncSession, rows: Sequence[Mapping[str, Any]]) -> None:
    """Write the journal of what was said."""
    await bulk.insert(tx, changes, rows)


async def save_messages(
    tx: AsyncSession, rows: Sequence[Mapping[str, Any]], known: Collection[tuple[str, str, str]]
) -> None:
    """Write what was received and answered; of what is known, what became of it now."""
    new = []
    for row in rows:
        if (row["source"], row["control_id"], row["digest"]) not in known:
            new.append(row)
            continue
        message = messages.c
        same = (message.source == row["source"]) & (message.control_id == row["control_id"])
        same &= message.digest == row["digest"]
        await tx.execute(update(messages).where(same).values(**row, removed_size=None))
    await bulk.insert(tx, messages, new)


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
