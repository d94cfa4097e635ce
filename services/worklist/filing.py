"""What a ledger has become, as rows and events. Pure."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final
from zoneinfo import ZoneInfo

from contracts.order import OrderCancelled, OrderChanged, OrderPlaced
from services.worklist import body, item, telling
from services.worklist.ledger import Entry, Key, Ledger
from services.worklist.order import Order, fold
from services.worklist.patient import attributes_for

Row = Mapping[str, Any]
#: After these there is nothing to take back.
ENDED: Final = ("cancelled", "discontinued")
#: Gives the time zone of a site.
Zones = Callable[[str], ZoneInfo]


@dataclass
class Filing:
    """Rows to write, and events to tell with the tenant and site of each."""

    new_orders: list[Row] = field(default_factory=list)
    old_orders: list[Row] = field(default_factory=list)
    new_items: list[Row] = field(default_factory=list)
    old_items: list[Row] = field(default_factory=list)
    numbers: list[tuple[int, Key]] = field(default_factory=list)
    without_numbers: list[int] = field(default_factory=list)
    moves: dict[int, int] = field(default_factory=dict)
    #: Items that were taken off.
    gone: set[int] = field(default_factory=set)
    #: Orders that are parts of others, each with these.
    wholes: dict[int, Sequence[int]] = field(default_factory=dict)
    #: Patients to whom orders went that were another's.
    heirs: set[int] = field(default_factory=set)
    events: list[tuple[OrderPlaced | OrderChanged | OrderCancelled, str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Desk:
    """What filing needs besides the ledger."""

    next_revision: Callable[[], int]
    next_row: Callable[[], int]
    zones: Zones
    now: datetime


def file(ledger: Ledger, numbered: Mapping[int, frozenset[Key]], desk: Desk) -> Filing:
    """Give the rows and events of each order that was touched.

    Parameters
    ----------
    ledger
        Settled.
    numbered
        The numbers that each order has in the table.
    desk
        Where identifiers, revisions, time zones and the time come from.
    """
    filing = Filing()
    for each in sorted(ledger.touched):
        entry = ledger.entries[each]
        if entry.order is None:
            _withdraw(filing, ledger, entry, desk)
        else:
            _file(filing, ledger, entry, entry.order, desk)
        if entry.joined_into is not None:
            filing.without_numbers.append(entry.id)
            filing.moves[entry.id] = entry.joined_into
        else:
            before = numbered.get(entry.id, frozenset())
            filing.numbers += [(entry.id, key) for key in sorted(entry.numbers - before)]
    return filing


def _file(filing: Filing, ledger: Ledger, entry: Entry, order: Order, desk: Desk) -> None:
    person, same = ledger.person(entry.tenant, order.patient)
    patient = attributes_for(person, order.own(same))
    named = item.identity(order, entry.tenant)
    if "AccessionNumber" in named.minted and not entry.floating:
        # Who reads it off a worklist may name the order by it.
        entry.numbers.add((entry.tenant, "accession", named.accession, f"@{order.site}"))
    before = _told(entry)
    told = telling.placed(order, named, patient, before, desk.zones(order.site))
    rows = [
        {
            "tenant": entry.tenant,
            "site": order.site,
            "order_id": entry.id,
            "step_id": step.step_id,
            "state": step.state,
            "start": item.start(step.attributes),
            "station_aets": item.stations(step.attributes),
            "modality": item.first(step.attributes, "Modality")[:16],
            "attributes": item.dataset(order, step, named, patient, entry.tenant),
        }
        for step in order.steps
    ]
    changed = _file_items(filing, entry, rows, desk)
    owner = ledger.patient(entry.tenant, order.patient).id
    columns = {
        "tenant": entry.tenant,
        "site": order.site,
        "patient_id": owner,
        "placer": order.placer.value if order.placer else None,
        "filler": order.filler.value if order.filler else None,
        "accession": named.accession,
        "study_instance_uid": named.study_instance_uid,
        "minted": sorted(named.minted),
        "priority": told.priority,
        "state": order.state,
        "start": min((str(row["start"]) for row in rows if row["start"]), default=""),
        "told": told.model_dump(mode="json", exclude={"revision"}),
        "joined_into": None,
        "floating": entry.floating,
    }
    if not changed and all(entry.columns.get(name) == value for name, value in columns.items()):
        return
    if entry.columns and entry.columns["patient_id"] != owner:
        filing.heirs.add(owner)
    _write(filing, entry, columns, desk)
    now = told.model_copy(update={"revision": desk.next_revision()})
    filing.events.append((telling.event(now, before), entry.tenant, order.site))


def _withdraw(filing: Filing, ledger: Ledger, entry: Entry, desk: Desk) -> None:
    """Take an order off that is a part of others: what was said of it is said of these."""
    before = _told(entry)
    wholes = ledger.wholes(entry)
    if entry.columns:
        columns = {
            name: value for name, value in entry.columns.items() if name not in ("id", "placed_at", "changed_at")
        }
    else:
        order = fold(entry.changes.values())
        named = item.identity(order, entry.tenant)
        columns = {
            "tenant": entry.tenant,
            "site": order.site,
            "patient_id": ledger.patient(entry.tenant, order.patient).id,
            "placer": order.placer.value if order.placer else None,
            "filler": order.filler.value if order.filler else None,
            "accession": named.accession,
            "study_instance_uid": named.study_instance_uid,
            "minted": sorted(named.minted),
            "priority": item.priority(order),
            "start": "",
            "told": {},
            "floating": entry.floating,
        }
    columns |= {"state": "cancelled", "joined_into": wholes[0]}
    if all(entry.columns.get(name) == value for name, value in columns.items()):
        return
    _write(filing, entry, columns, desk)
    filing.wholes[entry.id] = wholes
    _file_items(filing, entry, (), desk)
    # Also those that were cancelled before: the order that it is a part of may not be.
    filing.gone |= {one.id for one in entry.items}
    now = {ledger.entries[whole].columns.get("study_instance_uid") for whole in wholes}
    if before is not None and before.state not in ENDED and before.study_instance_uid not in now:
        gone = before.model_copy(update={"state": "cancelled", "revision": desk.next_revision()})
        filing.events.append((telling.event(gone, before), entry.tenant, str(columns["site"])))


def _told(entry: Entry) -> OrderPlaced | None:
    told = entry.columns.get("told")
    return OrderPlaced.model_validate(told) if told else None


def _write(filing: Filing, entry: Entry, columns: Row, desk: Desk) -> None:
    row = {"id": entry.id, **columns, "changed_at": desk.now}
    if entry.columns:
        filing.old_orders.append(row)
    else:
        filing.new_orders.append({**row, "placed_at": desk.now})
    entry.columns = {**entry.columns, **columns}


def _file_items(filing: Filing, entry: Entry, rows: Sequence[Row], desk: Desk) -> bool:
    """Write the items of an order; tell whether any changed. None is ever deleted: what was performed names them."""
    left = {one.step_id: one for one in entry.items}
    matched = {row["step_id"]: left.pop(row["step_id"]) for row in rows if row["step_id"] in left}
    lacking = [row for row in rows if row["step_id"] not in matched]
    if len(lacking) == 1 and list(left) == [""]:
        # The step that had no identifier got one.
        matched[lacking[0]["step_id"]] = left.pop("")
    changed = False
    for row in rows:
        known = matched.get(row["step_id"])
        if known is None:
            made = {"id": desk.next_row(), **row, "performed": None}
            filing.new_items.append({**made, "revision": desk.next_revision(), "changed_at": desk.now})
            changed = True
        elif known.columns != {**row, "attributes": body.plain(row["attributes"])}:
            filing.old_items.append({"id": known.id, **row, "revision": desk.next_revision(), "changed_at": desk.now})
            changed = True
    for gone in left.values():
        row = {**gone.columns, "order_id": entry.id, "state": "cancelled"}
        if gone.columns != row:
            filing.gone.add(gone.id)
            filing.old_items.append({"id": gone.id, **row, "revision": desk.next_revision(), "changed_at": desk.now})
            changed = True
    return changed
