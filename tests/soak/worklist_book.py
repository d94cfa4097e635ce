"""What senders have said and what was answered: from it follows what the worklist must hold, whatever was killed.

Every message has a number of its own, which stands in each of its texts: an order that shows two numbers at once shows
a message by halves. What follows is computed here from that alone, and shares nothing with what it judges.
"""

import threading
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import count
from typing import Final, Literal

Kind = Literal["new", "change", "start", "complete", "cancel", "about", "merge", "inverse"]
#: How an order comes: OMI with two steps, or with one; ORM; an appointment.
Form = Literal["steps", "omi", "orm", "siu"]
#: In these states an item is shown.
SHOWN: Final = frozenset({"scheduled", "arrived", "started"})
_STATES: Final[Mapping[Kind, str]] = {
    "new": "scheduled",
    "start": "started",
    "complete": "completed",
    "cancel": "cancelled",
}
_CONTROL: Final[Mapping[Kind, str]] = {
    "new": "NW|{0}|{1}||SC",
    "change": "XO|{0}|{1}",
    "start": "SC|{0}|{1}||IP",
    "complete": "SC|{0}|{1}||CM",
    "cancel": "CA|{0}|{1}||CA",
}
_APPOINTMENT: Final[Mapping[Kind, str]] = {"new": "S12", "change": "S14", "cancel": "S15"}
#: A message is written one second after the one before: long ago enough that no clock is ahead.
_FIRST: Final = datetime.now(UTC) - timedelta(days=40)


@dataclass(eq=False)
class Order:
    """An order as its sender knows it."""

    number: int
    patient: str
    form: Form
    said: list["Message"] = field(default_factory=list)

    @property
    def placer(self) -> str:
        """Its number."""
        return f"PL{self.number}"

    @property
    def study(self) -> str:
        """Its Study Instance UID, where its form has one."""
        return f"1.2.826.0.1.3680043.9.{self.number}"

    @property
    def steps(self) -> tuple[str, ...]:
        """Identifiers of its steps; empty where the form has none."""
        if self.form == "siu":
            return ("",)
        return (f"S{self.number}", f"R{self.number}") if self.form == "steps" else (f"S{self.number}",)


@dataclass(eq=False)
class Message:
    """One message.

    Attributes
    ----------
    patient, merged
        Whom it names; who goes, in a merge.
    want
        How it must be answered.
    tries, answers
        How often it was sent, and how often answered.
    kept
        Whether it is known to be in the database.
    """

    number: int
    kind: Kind
    patient: str
    raw: bytes
    order: Order | None = None
    merged: str = ""
    want: Literal["AA", "AE"] = "AA"
    tries: int = 0
    answers: int = 0
    kept: bool = False

    @property
    def control_id(self) -> str:
        """MSH-10."""
        return f"M{self.number}"


@dataclass
class Request:
    """An N-CREATE or N-SET."""

    number: int
    state: Literal["in-progress", "completed", "discontinued"]
    sent: int = 0
    answered: bool = False


@dataclass(eq=False)
class Performed:
    """A performed procedure step as its modality knows it."""

    uid: str
    order: Order | None
    requests: list[Request]


@dataclass(frozen=True)
class Expected:
    """What an order must be: the number of the newest message of it, its state, its patient and that one's name."""

    number: int
    state: str
    patient: str
    named: int


class Book:
    """All that was said, by many senders at once."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._numbers = count(1)
        self.messages: dict[str, Message] = {}
        self.orders: dict[str, Order] = {}
        self.performed: dict[str, Performed] = {}
        self.faults: list[str] = []
        self._about: dict[str, list[Message]] = {}
        self._settled: list[Order] = []
        self._unexamined: list[Order] = []

    def number(self) -> int:
        """Give a number that nothing else has."""
        with self._lock:
            return next(self._numbers)

    def fault(self, said: str) -> None:
        """Note what must not be."""
        with self._lock:
            self.faults.append(said)

    def say(self, message: Message) -> None:
        """Note that a message goes out."""
        with self._lock:
            message.tries += 1
            if message.tries == 1:
                self.messages[message.control_id] = message
                self._about.setdefault(message.patient, []).append(message)
                if message.order is not None:
                    self.orders[message.order.placer] = message.order
                    message.order.said.append(message)

    def heard(self, message: Message) -> None:
        """Note that it was answered as it must be."""
        with self._lock:
            message.answers += 1
            if message.kind == "new" and message.order is not None and message.answers == 1:
                self._settled.append(message.order)
                self._unexamined.append(message.order)

    def report(self, step: Performed) -> None:
        """Note that a modality begins to report a step."""
        with self._lock:
            self.performed[step.uid] = step

    def settled(self, place: float) -> Order | None:
        """Give one of the newest orders that were acknowledged, by a place from 0 to 1."""
        with self._lock:
            newest = self._settled[-40:]
            return newest[int(place * len(newest))] if newest else None

    def examined(self) -> Order | None:
        """Give an order that was acknowledged and that no modality has had yet."""
        with self._lock:
            return self._unexamined.pop() if self._unexamined else None

    # What follows

    def roots(self) -> Mapping[str, str]:
        """Give who stays, of each patient who is merged by a message that was kept."""
        merges = (each for each in self.messages.values() if each.kind == "merge" and each.kept)
        return {each.merged: each.patient for each in merges}

    def expected(self, order: Order, roots: Mapping[str, str]) -> Expected | None:
        """Say what an order must be by the messages that were kept; none, if it must not be."""
        said = sorted((each for each in order.said if each.kept), key=lambda each: each.number)
        if not said:
            return None
        state = "scheduled"
        for each in said:
            state = _STATES.get(each.kind, state)
        patient = roots.get(order.patient, order.patient)
        return Expected(said[-1].number, state, patient, self._name(patient))

    def _name(self, patient: str) -> int:
        about = self._about.get(patient, ())
        return max((each.number for each in about if each.kept and each.want == "AA"), default=0)

    def touched(self, messages: Iterable[Message]) -> set[Order]:
        """Give the orders that messages change: their own, and those of the patients that they are about."""
        found: set[Order] = set()
        for each in messages:
            for patient in (each.patient, each.merged):
                found |= {one.order for one in self._about.get(patient, ()) if one.order is not None}
        return found


def placed(number: int, kind: Kind, order: Order, large: int = 0) -> Message:
    """Write a message of an order; with so many bytes of a document in it."""
    text = f"T{number}"
    start = _start(number)
    if order.form == "siu":
        segments = [
            _header(number, f"SIU^{_APPOINTMENT[kind]}"),
            "|".join(["SCH", f"{order.placer}^RIS", *[""] * 24, f"{order.placer}^RIS"]),
            _person(order.patient, number),
            "RGS|1",
            f"AIS|1||C^{text}^99|{start}",
            f"NTE|1||{text}",
        ]
    else:
        control = _CONTROL[kind].format(f"{order.placer}^RIS", f"FI{order.number}^RIS")
        segments = [
            _header(number, "ORM^O01" if order.form == "orm" else "OMI^O23^OMI_O23"),
            _person(order.patient, number),
            f"ORC|{control}",
            f"TQ1|1||||||{start}||R",
            _request(order, text),
            f"NTE|1||{text}",
        ]
        if large:
            segments.append(f"OBX|1|ED|PDF^Report^99||^application^pdf^Base64^{'QUJD' * (large // 4)}")
        if order.form != "orm":
            segments += [
                f"IPC|A{order.number}|Q{order.number}|{order.study}|{step}|CT|C^{text}^99|||CT1" for step in order.steps
            ]
    return Message(number, kind, order.patient, _written(segments), order)


def about(number: int, patient: str) -> Message:
    """Write what is known of a patient."""
    segments = [_header(number, "ADT^A08"), "EVN|A08", _person(patient, number)]
    return Message(number, "about", patient, _written(segments))


def merge(number: int, kept: str, merged: str, *, inverse: bool = False) -> Message:
    """Write that two are one; `inverse`: of two who are one already, the other way round."""
    segments = [_header(number, "ADT^A40"), "EVN|A40", _person(kept, number), f"MRG|{merged}^^^HGM"]
    if inverse:
        return Message(number, "inverse", kept, _written(segments), merged=merged, want="AE")
    return Message(number, "merge", kept, _written(segments), merged=merged)


def _request(order: Order, text: str) -> str:
    fields = ["OBR", "1", f"{order.placer}^RIS", f"FI{order.number}^RIS", f"C^{text}^99", *[""] * 20]
    if order.form == "orm":
        fields[18], fields[20], fields[24] = f"A{order.number}", order.steps[0], "CT"
    return "|".join(fields)


def _header(number: int, kind: str) -> str:
    written = (_FIRST + timedelta(seconds=number)).strftime("%Y%m%d%H%M%S+0000")
    return rf"MSH|^~\&|RIS|MALABO|KIVUKO|HUB|{written}||{kind}|M{number}|P|2.5.1||||||UNICODE UTF-8"


def _person(patient: str, number: int) -> str:
    return f"PID|||{patient}^^^HGM^MR||N{number}^Ana||19700101|F"


def _start(number: int) -> str:
    return (datetime(2031, 1, 1, tzinfo=UTC) + timedelta(minutes=number)).strftime("%Y%m%d%H%M%S")


def _written(segments: Iterable[str]) -> bytes:
    return "".join(f"{segment}\r" for segment in segments).encode()
