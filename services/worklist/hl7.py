"""From a message to changes: of what kind it is, whom it is about, and what is wrong with it. Pure.

ORM^O01, OMG^O19, OMI^O23 (orders), SIU^S12 to S15 (appointments), ADT (patients and merges): HL7 v2 chapters 3, 4, 10.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from contracts.definition import OrderAction
from libs.hl7.acknowledgement import Fault
from libs.hl7.message import NULL, Message, Segment
from services.worklist.attributes import Attributes
from services.worklist.change import (
    Change,
    Number,
    OrderChange,
    Origin,
    PatientChange,
    PatientMerge,
    StepChange,
    patient_number,
)
from services.worklist.conversion import LostError, moment
from services.worklist.mapping import Reading, Surroundings
from services.worklist.place import Place, Scope
from services.worklist.rule import Found, Rule

_ORDERS: Final = frozenset({"ORM^O01", "OMG^O19", "OMI^O23"})
_APPOINTMENTS: Final = frozenset({"SIU^S12", "SIU^S13", "SIU^S14", "SIU^S15"})
_PATIENTS: Final = frozenset({"ADT^A01", "ADT^A04", "ADT^A05", "ADT^A08", "ADT^A28", "ADT^A31"})
_MERGES: Final = frozenset({"ADT^A40", "ADT^A47"})
_KNOWN: Final = _ORDERS | _APPOINTMENTS | _PATIENTS | _MERGES
_VERSION: Final = re.compile(r"2\.[1-8](\.\d+)?")
_STEP_ID: Final = "ScheduledProcedureStepID"
#: Without these a modality's usual query does not find the item.
_SOUGHT: Final = ("Modality", "ScheduledStationAETitle", "ScheduledProcedureStepStartDate")
#: A clock that runs ahead would make all that comes later older than it.
_AHEAD: Final = timedelta(minutes=15)
#: Segments that hold for all orders of a message.
_SHARED: Final = frozenset({"MSH", "SFT", "UAC", "EVN", "PID", "PD1", "MRG", "PV1", "PV2", "SCH", "RGS"})
#: Segments of which each makes a step.
_STEPS: Final = "IPC"


class Row(NamedTuple):
    """What a message says of one attribute, for people who try a mapping.

    Attributes
    ----------
    part
        Of which change of the message, from 0.
    about
        patient, order, or the step by its number from 1.
    found
        Its value, where that comes from, and what was done to it.
    """

    part: int
    about: str
    keyword: str
    found: Found


@dataclass(frozen=True)
class Interpretation:
    """What a message says.

    Attributes
    ----------
    changes
        Empty where it is refused.
    faults
        Why it is refused: each is for the sender, without personal data.
    warnings
        What was cut, converted or lost, a sentence each, without personal data.
    rows
        Attribute by attribute.
    """

    changes: tuple[Change, ...] = ()
    faults: tuple[Fault, ...] = ()
    warnings: tuple[str, ...] = ()
    rows: tuple[Row, ...] = ()


@dataclass(frozen=True)
class Sender:
    """The node that sent a message, as the definition has it.

    Attributes
    ----------
    node, site, tenant
        Keys.
    rules, control
        Of its mapping, with all that it extends.
    surroundings
        What the mapping can name besides the message.
    """

    node: str
    site: str
    tenant: str
    rules: Mapping[str, Rule]
    control: Mapping[str, OrderAction]
    surroundings: Surroundings


@dataclass
class _Made:
    """What is made of a message while it is read."""

    changes: list[Change] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    warnings: dict[str, None] = field(default_factory=dict)
    rows: list[Row] = field(default_factory=list)

    def warn(self, *sentences: str) -> None:
        self.warnings.update(dict.fromkeys(sentences))

    def done(self) -> Interpretation:
        changes = () if self.faults else tuple(self.changes)
        return Interpretation(changes, tuple(self.faults), tuple(self.warnings), tuple(self.rows))


def described(change: Change) -> str:
    """Say what a change does, for people who try a mapping."""
    if isinstance(change, PatientMerge):
        return f"merge {change.merged.value} into {change.kept.value}"
    if isinstance(change, PatientChange):
        return f"update patient {change.patient.value}"
    named = {"placer": change.placer, "filler": change.filler, "accession": change.accession}
    numbers = ", ".join(f"{name} {number.value}" for name, number in named.items() if number is not None)
    steps = ", ".join(step.step_id for step in change.steps if step.step_id)
    return f"{change.action} the order with {numbers}" + (f", steps {steps}" if steps else "")


def kind_of(message: Message) -> str:
    """Give type and event, such as `ORM^O01`; the event from EVN-1 or the structure where MSH-9 lacks it."""
    kind, event = message.header_value(9, 1), message.header_value(9, 2)
    if kind == "ORM" and not event:
        # Versions 2.1 and 2.2 have no events for orders.
        return "ORM^O01"
    if not event and kind in ("ADT", "SIU"):
        event = next((segment.field(1).strip() for segment in message.named("EVN")), "")
    if "_" in kind and not event:
        kind, _, event = kind.partition("_")
    return f"{kind}^{event}"


def interpret(message: Message, sender: Sender, received_at: datetime) -> Interpretation:
    """Say what a message changes, or why it is refused.

    Parameters
    ----------
    received_at
        UTC; stands for MSH-7 where that is missing, or ahead of it by more than 15 minutes.
    """
    made = _Made()
    made.warn(*message.oddities)
    kind, version = kind_of(message), message.header_value(12)
    if not message.header_value(10):
        made.faults.append(Fault(101, "MSH-10 is empty: a message needs an identifier of its own", "MSH-10"))
    if version and not _VERSION.fullmatch(version):
        made.faults.append(Fault(203, "MSH-12: versions 2.1 to 2.8 are understood", "MSH-12"))
    if kind not in _KNOWN:
        made.faults.append(_unknown(kind))
    if made.faults:
        return made.done()
    reader = _Reader(message, sender, kind, _stamp(message, sender, received_at, made), made)
    reader.read()
    return made.done()


def _unknown(kind: str) -> Fault:
    types = {known.partition("^")[0] for known in _KNOWN}
    taken = "taken are ORM^O01, OMG^O19, OMI^O23, SIU^S12 to S15, ADT^A01, A04, A05, A08, A28, A31, A40 and A47"
    if kind.partition("^")[0] in types:
        return Fault(201, f"this event is not taken: {taken}", "MSH-9")
    return Fault(200, f"this type of message is not taken: {taken}", "MSH-9")


def _stamp(message: Message, sender: Sender, received_at: datetime, made: _Made) -> datetime:
    written = message.header_value(7)
    if not written:
        made.warn("MSH-7 is missing: the time of arrival stands for it, so that late messages are not known to be late")
        return received_at
    try:
        stamp = moment(written, sender.surroundings.zone).at.astimezone(UTC)
    except LostError:
        made.warn("MSH-7 is no time: the time of arrival stands for it")
        return received_at
    if stamp > received_at + _AHEAD:
        made.warn("MSH-7 is ahead of our clock: the time of arrival stands for it. Set the clock of the sender")
        return received_at
    return stamp


class _Reader:
    def __init__(self, message: Message, sender: Sender, kind: str, stamp: datetime, made: _Made) -> None:
        self._message = message
        self._sender = sender
        self._kind = kind
        self._stamp = stamp
        self._made = made

    def read(self) -> None:
        if self._kind in _PATIENTS:
            self._patient()
        elif self._kind in _MERGES:
            self._merges()
        else:
            groups = list(_orders(self._message))
            repeated = len(groups) > 1 and _repeated(self._reading(scope) for scope in groups)
            for scope in groups:
                self._order(scope, counted=repeated)

    def _reading(self, scope: Scope) -> Reading:
        return Reading(self._sender.rules, scope, self._sender.surroundings)

    def _origin(self) -> Origin:
        control_id = self._message.header_value(10)
        return Origin(self._sender.node, control_id, len(self._made.changes), self._stamp)

    def _order(self, scope: Scope, *, counted: bool) -> None:
        made, reading = self._made, self._reading(scope)
        action = self._action(scope)
        patient = self._patient_number(reading)
        if patient is None:
            self._missing(reading, "PatientID", "PID-3", "an order needs a patient")
        placer = self._number(reading, "PlacerOrderNumberImagingServiceRequest", "OrderPlacerIdentifierSequence")
        filler = self._number(reading, "FillerOrderNumberImagingServiceRequest", "OrderFillerIdentifierSequence")
        accession = self._number(reading, "AccessionNumber", "IssuerOfAccessionNumberSequence")
        if placer is None and filler is None and accession is None:
            what = "an order needs a number: ORC-2 of who placed it, or ORC-3 of who fills it"
            self._missing(reading, "PlacerOrderNumberImagingServiceRequest", "ORC-2", what)
        about_patient, about_order = self._attributes(reading)
        steps = self._steps(scope, counted=counted)
        if action is None or patient is None or made.faults:
            return
        if action == "schedule":
            self._unsought(steps)
        made.changes.append(
            OrderChange(
                origin=self._origin(),
                tenant=self._sender.tenant,
                site=self._sender.site,
                action=action,
                patient=patient,
                placer=placer,
                filler=filler,
                accession=accession,
                about_patient=about_patient,
                about_order=about_order,
                steps=steps,
            )
        )

    def _action(self, scope: Scope) -> OrderAction | None:
        control = self._sender.control
        if self._kind in _APPOINTMENTS:
            keys, place = [self._kind.partition("^")[2]], "MSH-9"
        else:
            orc = next(iter(scope.segments("ORC")), None)
            order, status = (_first(orc, 1), _first(orc, 5)) if orc is not None else ("", "")
            keys, place = [f"{order}_{status}", order], "ORC-1"
        found = next((control[key] for key in keys if key in control), None)
        if found is None:
            known = ", ".join(sorted(control))
            said = f"the order control is not one of the mapping's `control` ({known})"
            self._made.faults.append(Fault(103, said, place))
        return found

    def _attributes(self, reading: Reading) -> tuple[Attributes, Attributes]:
        about_patient: dict[str, tuple[str | Attributes, ...]] = {}
        about_order: dict[str, tuple[str | Attributes, ...]] = {}
        for keyword, rule in self._sender.rules.items():
            if rule.about == "step":
                continue
            found = self._noted(reading, keyword, rule.about)
            if found.values is not None:
                (about_patient if rule.about == "patient" else about_order)[keyword] = found.values
        return about_patient, about_order

    def _steps(self, scope: Scope, *, counted: bool) -> tuple[StepChange, ...]:
        segments = scope.segments(_STEPS)
        scopes = [scope.with_layer({_STEPS: [segment]}) for segment in segments] or [scope]
        made = [self._step(each, number, counted=counted) for number, each in enumerate(scopes, start=1)]
        return tuple(step for step in made if step.step_id or step.attributes)

    def _step(self, scope: Scope, number: int, *, counted: bool) -> StepChange:
        reading = self._reading(scope)
        attributes: dict[str, tuple[str | Attributes, ...]] = {}
        for keyword, rule in self._sender.rules.items():
            if rule.about != "step":
                continue
            found = self._noted(reading, keyword, f"step {number}")
            if found.values is not None:
                attributes[keyword] = found.values
        step_id = str(next(iter(attributes.pop(_STEP_ID, ())), ""))
        if not step_id and counted:
            # Several steps of one order in one message, which nothing else tells apart.
            step_id = _first(next(iter(scope.segments("OBR")), None), 1) or str(number)
        return StepChange(step_id, attributes)

    def _unsought(self, steps: Sequence[StepChange]) -> None:
        """Warn of what a modality's usual query would not find."""
        for keyword in _SOUGHT:
            if not steps or any(not step.attributes.get(keyword) for step in steps):
                self._made.warn(f"{keyword} has no value: a modality that asks for one does not see the order")

    def _patient(self) -> None:
        reading = self._reading(Scope(self._message, (_by_name(self._message.segments),)))
        patient = self._patient_number(reading)
        if patient is None:
            self._missing(reading, "PatientID", "PID-3", "a patient needs an identifier")
            return
        about, _ = self._attributes(reading)
        self._made.changes.append(PatientChange(self._origin(), self._sender.tenant, patient, about))

    def _merges(self) -> None:
        shared = _by_name(self._message.segments)
        pairs = list(_pairs(self._message))
        if not pairs:
            self._made.faults.append(Fault(101, "a merge needs PID with who stays, and MRG with who goes", "MRG"))
        for pid, mrg in pairs:
            scope = Scope(self._message, ({"PID": [pid], "MRG": [mrg]}, shared))
            reading = self._reading(scope)
            kept = self._patient_number(reading)
            if kept is None:
                self._missing(reading, "PatientID", "PID-3", "a merge needs who stays")
                continue
            about, _ = self._attributes(reading)
            self._merge(scope, kept)
            if about and not self._made.faults:
                self._made.changes.append(PatientChange(self._origin(), self._sender.tenant, kept, about))

    def _merge(self, scope: Scope, kept: Number) -> None:
        identifiers = [self._identifier(scope, each, "PID") for each in scope.fields(Place("PID", 3))]
        gone = [self._identifier(scope, each, "MRG") for each in scope.fields(Place("MRG", 1))]
        merged = [number for number in dict.fromkeys(gone) if number.value]
        if not merged:
            self._made.faults.append(Fault(101, "a merge needs who goes: MRG-1 is empty", "MRG-1"))
        for number in merged:
            # Several systems' identifiers are merged at once: each into the one of the same issuer.
            stays = next((each for each in identifiers if each.value and each.issuer == number.issuer), kept)
            if number == stays:
                said = "MRG-1 is the same as PID-3: a patient is not merged with itself"
                self._made.faults.append(Fault(204, said, "MRG-1"))
                return
            self._made.changes.append(PatientMerge(self._origin(), self._sender.tenant, stays, number))

    def _identifier(self, scope: Scope, field: str, segment: str) -> Number:
        """Read CX: the identifier, and who issued it as the mapping's usual places have it."""
        number = 3 if segment == "PID" else 1
        value = scope.text(field, Place(segment, number, 1)) or ""
        issuer = scope.text(field, Place(segment, number, 4, 0, 1)) or scope.text(
            field, Place(segment, number, 4, 0, 2)
        )
        issuer = issuer or self._sender.surroundings.named.get("node.issuer", "")
        return patient_number(value, issuer, self._sender.site)

    def _patient_number(self, reading: Reading) -> Number | None:
        number = self._number(reading, "PatientID", "IssuerOfPatientID")
        return None if number is None else patient_number(number.value, number.issuer, self._sender.site)

    def _number(self, reading: Reading, keyword: str, issuer: str) -> Number | None:
        values = reading.found(keyword).values
        if not values or not isinstance(values[0], str):
            return None
        return Number(values[0], _issuer(reading.found(issuer).values))

    def _missing(self, reading: Reading, keyword: str, place: str, why: str) -> None:
        notes = "; ".join(reading.found(keyword).notes)
        self._made.faults.append(Fault(101, f"{why}: {notes or f'{keyword} has no value'}", place))

    def _noted(self, reading: Reading, keyword: str, about: str) -> Found:
        found = reading.found(keyword)
        if found.notes:
            self._made.warn(*(f"{keyword}: {note}" for note in found.notes))
        if found.values is not None or found.notes:
            self._made.rows.append(Row(len(self._made.changes), about, keyword, found))
        return found


def _issuer(values: Sequence[str | Attributes] | None) -> str:
    """Give the issuer as one text, of an attribute or of an item of issuers."""
    if not values:
        return ""
    if isinstance(values[0], str):
        return values[0]
    item = values[0]
    for keyword in ("LocalNamespaceEntityID", "UniversalEntityID"):
        found = item.get(keyword)
        if found and isinstance(found[0], str):
            return found[0]
    return ""


def _first(segment: Segment | None, number: int) -> str:
    if segment is None:
        return ""
    text = (segment.repetitions(number) or [""])[0]
    text = text.partition(segment.delimiters.component)[0].strip()
    return "" if text == NULL else text


def _by_name(segments: Sequence[Segment]) -> Mapping[str, Sequence[Segment]]:
    named: dict[str, list[Segment]] = {}
    for segment in segments:
        named.setdefault(segment.name, []).append(segment)
    return named


def _orders(message: Message) -> Iterator[Scope]:
    """Give the orders of a message, each with its own segments before those of the message.

    A group begins at ORC, or at OBR where OBR comes first, as some senders have them the other way round. Several OBR
    under one ORC are an order each.
    """
    leader = next((segment.name for segment in message.segments if segment.name in ("ORC", "OBR")), "")
    shared: list[Segment] = []
    groups: list[list[Segment]] = []
    for segment in message.segments:
        if segment.name == leader:
            groups.append([segment])
        elif groups and segment.name not in _SHARED:
            groups[-1].append(segment)
        else:
            shared.append(segment)
    if not groups:
        yield Scope(message, (_by_name(message.segments),))
        return
    common = _by_name(shared)
    if len(groups) > 1:
        # What stands before the first of several orders is of none of them.
        common = {name: found for name, found in common.items() if name in _SHARED or name.startswith("Z")}
    for group in groups:
        for part in _by_request(group):
            yield Scope(message, (_by_name(part), common))


def _by_request(group: list[Segment]) -> Iterator[list[Segment]]:
    if group[0].name != "ORC" or sum(segment.name == "OBR" for segment in group) <= 1:
        yield group
        return
    head: list[Segment] = []
    parts: list[list[Segment]] = []
    for segment in group:
        if segment.name == "OBR":
            parts.append([segment])
        else:
            (parts[-1] if parts else head).append(segment)
    yield from ([*head, *part] for part in parts)


def _repeated(readings: Iterator[Reading]) -> bool:
    """Tell whether several groups of a message name one order, so that they are steps of it."""
    keywords = ("PlacerOrderNumberImagingServiceRequest", "FillerOrderNumberImagingServiceRequest")
    numbers = [tuple(reading.found(keyword).values for keyword in keywords) for reading in readings]
    return len(set(numbers)) < len(numbers)


def _pairs(message: Message) -> Iterator[tuple[Segment, Segment]]:
    pid = None
    for segment in message.segments:
        if segment.name == "PID":
            pid = segment
        elif segment.name == "MRG" and pid is not None:
            yield pid, segment
