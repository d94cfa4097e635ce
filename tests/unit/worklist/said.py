"""Changes for tests, and a ledger that lives on from message to message as the tables do."""

import json
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Any
from zoneinfo import ZoneInfo

from contracts.order import OrderCancelled, OrderChanged, OrderPlaced
from services.worklist.body import plain
from services.worklist.change import (
    Action,
    Change,
    Number,
    OrderChange,
    Origin,
    PatientChange,
    PatientMerge,
    StepChange,
)
from services.worklist.filing import Desk, file
from services.worklist.ledger import Item, Ledger

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
JANE, JOHN = Number("100", "HIS"), Number("200", "HIS")
ZONE = ZoneInfo("Africa/Malabo")


def origin(minute: int, message: str | None = None, part: int = 0, source: str = "RIS") -> Origin:
    return Origin(source, message or f"m{minute}", part, NOON + timedelta(minutes=minute))


def order(
    minute: int,
    action: Action = "schedule",
    *,
    placer: str | None = None,
    filler: str | None = None,
    accession: str | None = None,
    patient: Number = JANE,
    about: Mapping[str, Any] | None = None,
    person: Mapping[str, Any] | None = None,
    steps: Mapping[str, Mapping[str, Any]] | None = None,
    message: str | None = None,
    part: int = 0,
    site: str = "malabo",
    source: str = "RIS",
) -> OrderChange:
    return OrderChange(
        origin(minute, message, part, source),
        "minsabs",
        site,
        action,
        patient,
        placer=Number(placer, "HIS") if placer else None,
        filler=Number(filler, "RIS") if filler else None,
        accession=Number(accession) if accession else None,
        about_patient=person or {},
        about_order=about or {},
        steps=tuple(StepChange(step_id, attributes) for step_id, attributes in (steps or {}).items()),
    )


def about(minute: int, patient: Number = JANE, **attributes: tuple[str, ...]) -> PatientChange:
    return PatientChange(origin(minute, source="HIS"), "minsabs", patient, attributes)


def merge(minute: int, kept: Number = JANE, merged: Number = JOHN) -> PatientMerge:
    return PatientMerge(origin(minute, source="HIS"), "minsabs", kept, merged)


class Books:
    """What the tables would hold after each message."""

    def __init__(self) -> None:
        ids, revisions = count(1), count(1)
        self.ledger = Ledger((), (), lambda: next(ids))
        #: What was told, in its order: the kind of event, and what it says.
        self.told: list[tuple[str, OrderPlaced | OrderChanged | OrderCancelled]] = []
        self._desk = Desk(lambda: next(revisions), lambda: next(ids), lambda _: ZONE, NOON)

    def take(self, *changes: Change) -> list[str | None]:
        """Take one message; give what is wrong with each of its changes."""
        objections = self.ledger.objections(changes)
        if not any(objections):
            for change in changes:
                self.ledger.take(change)
            self._settle()
        return objections

    def unmerge(self, merged: Number) -> None:
        self.ledger.unmerge(self.ledger.patient("minsabs", merged).id)
        self._settle()

    def _settle(self) -> None:
        self.ledger.settle()
        filing = file(self.ledger, {}, self._desk)
        self.told += [(type(event).__name__, event) for event, _, _ in filing.events]
        for row in (*filing.new_items, *filing.old_items):
            entries = self.ledger.entries.values()
            for entry in entries:
                entry.items = [one for one in entry.items if one.id != row["id"]]
            columns = {name: value for name, value in row.items() if name not in ("id", "revision", "changed_at")}
            columns.pop("performed", None)
            columns["attributes"] = plain(columns["attributes"])
            self.ledger.entries[row["order_id"]].items.append(Item(row["id"], row["step_id"], None, columns))
        self.ledger.touched.clear()

    def items(self) -> list[dict[str, Any]]:
        """Give what is shown on worklists, in an order of its own."""
        rows = [one.columns for entry in self.ledger.entries.values() for one in entry.items]
        shown = [row for row in rows if row["state"] in ("scheduled", "arrived", "started")]
        # Attributes have no order of their own.
        return sorted(({k: v for k, v in row.items() if k != "order_id"} for row in shown), key=_sorted_json)

    def states(self) -> list[tuple[str, str, str]]:
        """Give accession number, Study Instance UID and state of each order."""
        rows = [entry.columns for entry in self.ledger.entries.values() if entry.columns["joined_into"] is None]
        return sorted((row["accession"], row["study_instance_uid"], row["state"]) for row in rows)


def _sorted_json(row: Mapping[str, Any]) -> str:
    return json.dumps(row, sort_keys=True)


def value(item: Mapping[str, Any], keyword: str) -> Any:
    """Give the first value of an attribute of an item, or of its step."""
    attributes = item["attributes"]
    step = attributes["ScheduledProcedureStepSequence"][0]
    values = step[keyword] if keyword in step else attributes.get(keyword)
    return values[0] if values else values


def permuted(messages: Sequence[Sequence[Change]], places: Sequence[int]) -> list[Sequence[Change]]:
    return [messages[place % len(messages)] for place in places]
