"""The orders and patients that a group of messages is about, in memory: what the messages make of them. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeAlias

from services.worklist import item
from services.worklist.change import Change, Number, OrderChange, PatientChange, PatientMerge
from services.worklist.merge import family, objection, root
from services.worklist.order import Order, fold
from services.worklist.patient import SHARED, Person, Place, Said, place, with_said

#: Tenant, kind and value of a number, and within what it is unique.
Key: TypeAlias = tuple[str, Literal["placer", "filler", "accession", "floating"], str, str]
#: Longest number, identifier or name of a step that is kept.
LONGEST = 199
LONGEST_STEP = 64
#: What modalities report of items that were performed, or are just now.
_PERFORMED = ("in-progress", "completed")
_REUSED = (
    "it is a new order with the number of another patient's order, which was performed: it would come to that one's "
    "study; give it a number of its own, or say that the order's patient has changed (XO)"
)


@dataclass
class Patient:
    """A patient's row."""

    id: int
    tenant: str
    number: Number
    said: Said = field(default_factory=dict)
    merged_into: int | None = None


@dataclass
class Item:
    """A row of `items`, without its revision."""

    id: int
    step_id: str
    performed: str | None = None
    #: As the table has them; empty: not written yet.
    columns: Mapping[str, Any] = field(default_factory=dict)


@dataclass
class Entry:
    """An order's row with the changes that name it."""

    id: int
    tenant: str
    changes: dict[Place, OrderChange] = field(default_factory=dict)
    numbers: set[Key] = field(default_factory=set)
    items: list[Item] = field(default_factory=list)
    #: As the table has them; empty: not written yet.
    columns: Mapping[str, Any] = field(default_factory=dict)
    joined_into: int | None = None
    #: The order as it is after `settle`; none if it is a part of others.
    order: Order | None = None

    @property
    def floating(self) -> bool:
        """Whether nothing names it but an accession number."""
        return not any(kind in ("placer", "filler") for _, kind, _, _ in self.numbers)

    def keys(self, *kinds: str) -> set[Key]:
        """Give its numbers of some kinds."""
        return {key for key in self.numbers if key[1] in kinds}


def keys_of(change: OrderChange) -> set[Key]:
    """Give all numbers of a change, as they are looked for."""
    named: set[Key] = set()
    for kind, number in (("placer", change.placer), ("filler", change.filler)):
        if number is not None:
            named.add((change.tenant, kind, number.value, item.scope(number, change.site)))  # type: ignore[arg-type]  # both are kinds
    if change.accession is not None:
        kind = "accession" if named else "floating"
        named.add((change.tenant, kind, change.accession.value, item.scope(change.accession, change.site)))  # type: ignore[arg-type]  # both are kinds
    return named


def flaw(change: Change) -> str | None:
    """Say what is wrong with a change by itself, in words without personal data."""
    numbers = {"patient identifier": [change.patient]} if not isinstance(change, PatientMerge) else {}
    if isinstance(change, PatientMerge):
        numbers = {"patient identifier": [change.kept, change.merged]}
    if isinstance(change, OrderChange):
        given = [number for number in (change.placer, change.filler, change.accession) if number is not None]
        if not given:
            return "it names no order: neither a placer's or filler's order number nor an accession number"
        numbers["order number"] = given
        if any(len(step.step_id) > LONGEST_STEP for step in change.steps):
            return f"a scheduled step's identifier is longer than {LONGEST_STEP} characters"
    for what, those in numbers.items():
        if not all(number.value.strip() for number in those):
            return f"a {what} is empty"
        if any(len(number.value) > LONGEST or len(number.issuer) > LONGEST - 1 for number in those):
            return f"a {what} is longer than {LONGEST} characters"
        if any("\0" in number.value + number.issuer for number in those):
            return f"a {what} holds a NUL character"
    return None


class Ledger:
    """The working set of one transaction.

    Parameters
    ----------
    patients, entries
        What is known already: every patient and order that the changes name, all that belong to the same families of
        patients with their open orders, and orders that share an accession number with one of these.
    next_id
        Gives the identifier of a new row.
    """

    def __init__(self, patients: Iterable[Patient], entries: Iterable[Entry], next_id: Callable[[], int]) -> None:
        self._next_id = next_id
        self.patients = {patient.id: patient for patient in patients}
        self.entries = {entry.id: entry for entry in entries}
        self._by_number = {(one.tenant, one.number): one for one in self.patients.values()}
        self._by_key: dict[Key, set[int]] = {}
        for entry in self.entries.values():
            self._index(entry)
        self.new_patients: list[Patient] = []
        self.new_merges: list[tuple[int, PatientMerge, int, int]] = []
        self.changed_patients: set[int] = set()
        self.touched: set[int] = set()
        #: Orders that were performed, as far as modalities have said so, or it is added: see `of_others`.
        self.performed = {
            each for each, entry in self.entries.items() if any(one.performed in _PERFORMED for one in entry.items)
        }

    # Patients

    def patient(self, tenant: str, number: Number) -> Patient:
        """Give a patient's row, made if there is none."""
        known = self._by_number.get((tenant, number))
        if known is None:
            known = Patient(self._next_id(), tenant, number)
            self.patients[known.id] = self._by_number[tenant, number] = known
            self.new_patients.append(known)
        return known

    def _forward(self) -> dict[int, int]:
        return {one.id: one.merged_into for one in self.patients.values() if one.merged_into is not None}

    def person(self, tenant: str, number: Number) -> tuple[Person, frozenset[Number]]:
        """Give a patient with all that were merged into it, and all of its identifiers."""
        forward = self._forward()
        one = self.patient(tenant, number)
        kept = self.patients[root(one.id, forward)]
        others = [self.patients[each] for each in sorted(family(one.id, forward)) if each != kept.id]
        person = Person(kept.number, kept.said, tuple(each.said for each in others))
        return person, frozenset((kept.number, *(each.number for each in others)))

    def objections(self, changes: Sequence[Change]) -> list[str | None]:
        """Say what is wrong with each change of one message; nothing is changed."""
        found: list[str | None] = []
        forward = {
            (one.tenant, one.number): (one.tenant, self.patients[one.merged_into].number)
            for one in self.patients.values()
            if one.merged_into is not None
        }
        for change in changes:
            said = flaw(change)
            if said is None and isinstance(change, OrderChange) and self._is_reused(change, forward):
                said = _REUSED
            if said is None and isinstance(change, PatientMerge):
                kept, merged = (change.tenant, change.kept), (change.tenant, change.merged)
                said = objection(kept, merged, forward)
                if said is None:
                    forward[merged] = kept
            found.append(said)
        return found

    def of_others(self, changes: Iterable[Change]) -> set[int]:
        """Give orders that new orders name as their own, though they were another patient's until now."""
        return {
            entry.id
            for change in changes
            if isinstance(change, OrderChange)
            for entry in self._named(change)
            if self._owner(entry) != change.patient
        }

    def _is_reused(self, change: OrderChange, forward: Mapping[tuple[str, Number], tuple[str, Number]]) -> bool:
        """Tell whether a new order has the number of another patient's that was performed."""
        patient = root((change.tenant, change.patient), forward)
        return any(
            entry.id in self.performed
            and root((change.tenant, self._owner(entry)), forward) != patient
            and all(at < place(change.origin) for at in entry.changes)
            for entry in self._named(change)
        )

    def _named(self, change: OrderChange) -> list[Entry]:
        """Give the orders in the tables that a new order names."""
        if change.action != "schedule":
            return []
        named = {key for key in keys_of(change) if key[1] != "accession"}
        named |= {(tenant, "accession", value, scope) for tenant, kind, value, scope in named if kind == "floating"}
        return [entry for each in sorted(self._found(named)) if (entry := self.entries[each]).columns]

    def _owner(self, entry: Entry) -> Number:
        return self.patients[entry.columns["patient_id"]].number

    # Changes

    def take(self, change: Change) -> int | None:
        """Take a change in; give the order that it is about."""
        at = place(change.origin)
        if isinstance(change, PatientMerge):
            self._merge(change)
            return None
        patient = self.patient(change.tenant, change.patient)
        if isinstance(change, PatientChange):
            self._say(patient, at, change.about_patient)
            return None
        shared = {keyword: values for keyword, values in change.about_patient.items() if keyword in SHARED}
        self._say(patient, at, shared)
        entry = self._entry(change)
        entry.changes[at] = change
        entry.numbers |= keys_of(change)
        self._index(entry)
        self._touch(entry)
        return entry.id

    def unmerge(self, merged: int) -> None:
        """Undo a merge."""
        self.touched |= self._orders_of(merged)
        self.patients[merged].merged_into = None
        self.changed_patients.add(merged)

    def _merge(self, change: PatientMerge) -> None:
        kept, merged = self.patient(change.tenant, change.kept), self.patient(change.tenant, change.merged)
        if merged.merged_into == kept.id:
            return
        merged.merged_into = kept.id
        self.changed_patients.add(merged.id)
        self.new_merges.append((self._next_id(), change, kept.id, merged.id))
        self.touched |= self._orders_of(kept.id)

    def _say(self, patient: Patient, at: Place, attributes: Mapping[str, Any]) -> None:
        said = with_said(patient.said, at, attributes)
        if said is not patient.said:
            patient.said = said
            self.changed_patients.add(patient.id)
            self.touched |= self._orders_of(patient.id)

    def _orders_of(self, patient: int) -> set[int]:
        members = family(patient, self._forward())
        return {entry.id for entry in self.entries.values() if entry.columns and entry.columns["patient_id"] in members}

    # Orders

    def _index(self, entry: Entry) -> None:
        for key in entry.numbers:
            self._by_key.setdefault(key, set()).add(entry.id)

    def _found(self, keys: Iterable[Key]) -> set[int]:
        return {each for key in keys for each in self._by_key.get(key, ()) if self.entries[each].joined_into is None}

    def _entry(self, change: OrderChange) -> Entry:
        named = {key for key in keys_of(change) if key[1] != "accession"}
        found = sorted(self._found(named))
        if not found:
            entry = Entry(self._next_id(), change.tenant)
            self.entries[entry.id] = entry
            return entry
        entry = self.entries[found[0]]
        for other in found[1:]:
            self._join(self.entries[other], entry)
        return entry

    def _join(self, part: Entry, whole: Entry) -> None:
        """A change has named numbers of both: they are one order, and were all along."""
        whole.changes |= part.changes
        whole.numbers |= part.numbers
        have = {one.step_id for one in whole.items}
        moved = [one for one in part.items if one.step_id not in have]
        whole.items += moved
        part.items = [one for one in part.items if one not in moved]
        part.joined_into = whole.id
        self._index(whole)
        self._touch(part)

    def _touch(self, entry: Entry) -> None:
        self.touched.add(entry.id)
        # What is said of an accession number alone holds for each order that has it.
        for tenant, kind, value, scope in entry.keys("accession", "floating"):
            other: Key = (tenant, "floating" if kind == "accession" else "accession", value, scope)
            self.touched |= self._found([other])

    def settle(self) -> None:
        """Make each order that was touched of all its changes."""
        for each in sorted(self.touched):
            entry = self.entries[each]
            entry.order = None
            if entry.joined_into is None and not (entry.floating and self._holders(entry)):
                entry.order = fold(self._changes(entry))

    def wholes(self, entry: Entry) -> list[int]:
        """Give the orders that one is a part of."""
        return sorted(self._holders(entry)) if entry.joined_into is None else [entry.joined_into]

    def _holders(self, entry: Entry) -> set[int]:
        """Give the orders that a floating one belongs to."""
        wanted: set[Key] = {(tenant, "accession", value, scope) for tenant, _, value, scope in entry.keys("floating")}
        return self._found(wanted)

    def _changes(self, entry: Entry) -> list[OrderChange]:
        wanted: set[Key] = {(tenant, "floating", value, scope) for tenant, _, value, scope in entry.keys("accession")}
        floating = [self.entries[each] for each in self._found(wanted) if each != entry.id]
        return [*entry.changes.values(), *(change for other in floating for change in other.changes.values())]

    def whole(self, entry_id: int) -> int:
        """Give the order that one has become a part of; itself, if it has not."""
        while (into := self.entries[entry_id].joined_into) is not None:
            entry_id = into
        return entry_id

    def is_older(self, entry_id: int, change: OrderChange) -> bool:
        """Tell whether newer changes say otherwise already, so that this one changes nothing."""
        entry = self.entries[entry_id]
        changes = self._changes(entry)
        at = place(change.origin)
        if all(place(other.origin) <= at for other in changes):
            return False
        others = [other for other in changes if place(other.origin) != at]
        return bool(others) and _shown(fold(changes)) == _shown(fold(others))


def _shown(order: Order) -> tuple[object, ...]:
    return order.attributes, order.steps, order.patient, order.site, order.placer, order.filler, order.accession
