"""The items that modalities can be shown, in memory: by day, by station and day, and by the numbers that name them.

Fed by one thread, asked by many. What an item says is kept packed.
"""

import threading
import zlib
from bisect import bisect_left, bisect_right, insort
from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from pydantic_core import from_json

from services.worklist.attributes import Attributes
from services.worklist.query import STEPS, Query

#: States in which an item is on worklists, as long as no modality has reported its end.
SHOWN: Final = frozenset({"scheduled", "arrived", "started"})
ENDED: Final = frozenset({"completed", "discontinued"})
#: Attributes by whose values items are found at once; the first of them that a query names is taken.
NUMBERS: Final = ("AccessionNumber", "StudyInstanceUID", "PatientID", "RequestedProcedureID")
#: What an entry says without being unpacked: nearly all queries ask for nothing else.
SUMMARY: Final = frozenset(
    (
        *NUMBERS,
        "PatientName",
        f"{STEPS}.ScheduledStationAETitle",
        f"{STEPS}.ScheduledProcedureStepStartDate",
        f"{STEPS}.Modality",
    )
)


@dataclass(frozen=True, slots=True)
class Entry:
    """One item.

    Attributes
    ----------
    start
        YYYYMMDDHHMMSS by the clock of its site; empty if it has none.
    packed
        Its attributes.
    """

    id: int
    tenant: str
    site: str
    start: str
    day: str
    stations: tuple[str, ...]
    modality: str
    name: str
    revision: int
    numbers: tuple[tuple[str, str], ...]
    packed: bytes

    @property
    def summary(self) -> Attributes:
        """What it says under the keywords of `SUMMARY`."""
        found: dict[str, tuple[str | Attributes, ...]] = {}
        for keyword, value in self.numbers:
            found[keyword] = (*found.get(keyword, ()), value)
        step: Attributes = {
            "ScheduledStationAETitle": self.stations,
            "ScheduledProcedureStepStartDate": (self.day,),
            "Modality": (self.modality,),
        }
        return {**found, "PatientName": (self.name,), STEPS: (step,)}

    @property
    def attributes(self) -> Attributes:
        """All that it says."""
        return from_json(zlib.decompress(self.packed))  # type: ignore[no-any-return] # as it was packed


def entry(item: int, tenant: str, site: str, start: str, revision: int, text: str) -> Entry:
    """Make an entry of what a row of `items` has, its attributes as JSON.

    It stands where its attributes say, as these are what queries are matched with.
    """
    said: Attributes = from_json(text)
    steps = [step for step in said.get(STEPS, ()) if not isinstance(step, str)]
    step: Attributes = steps[0] if steps else {}
    return Entry(
        id=item,
        tenant=tenant,
        site=site,
        start=start,
        day=_first(step, "ScheduledProcedureStepStartDate").replace(".", "")[:8],
        stations=tuple(each for each in step.get("ScheduledStationAETitle", ()) if isinstance(each, str) and each),
        modality=_first(step, "Modality"),
        name=_first(said, "PatientName"),
        revision=revision,
        numbers=tuple(
            (keyword, value)
            for keyword in NUMBERS
            for value in said.get(keyword, ())
            if isinstance(value, str) and value
        ),
        packed=zlib.compress(text.encode(), 1),
    )


def is_shown(state: str, performed: str | None) -> bool:
    """Tell whether items in this state are on worklists."""
    return state in SHOWN and performed not in ENDED


class _Days:
    """Entries by day, and the days in order."""

    def __init__(self) -> None:
        self.entries: dict[str, dict[int, Entry]] = {}
        self.ordered: list[str] = []

    def put(self, each: Entry) -> None:
        if each.day not in self.entries:
            self.entries[each.day] = {}
            insort(self.ordered, each.day)
        self.entries[each.day][each.id] = each

    def drop(self, each: Entry) -> None:
        bucket = self.entries[each.day]
        del bucket[each.id]
        if not bucket:
            del self.entries[each.day]
            del self.ordered[bisect_left(self.ordered, each.day)]

    def between(self, low: str, high: str) -> list[str]:
        """List the days of a span; what has no day is in none that has an end."""
        if not low and not high:
            return list(self.ordered)
        first = bisect_left(self.ordered, low or "0")
        last = bisect_right(self.ordered, high) if high else len(self.ordered)
        return self.ordered[first:last]


class _Tenant:
    def __init__(self) -> None:
        self.days = _Days()
        self.stations: defaultdict[str, _Days] = defaultdict(_Days)
        self.numbers: dict[tuple[str, str], tuple[Entry, ...]] = {}

    def put(self, each: Entry) -> None:
        self.days.put(each)
        for station in each.stations:
            self.stations[station].put(each)
        for number in each.numbers:
            self.numbers[number] = (*self.numbers.get(number, ()), each)

    def drop(self, each: Entry) -> None:
        self.days.drop(each)
        for station in each.stations:
            self.stations[station].drop(each)
            if not self.stations[station].ordered:
                del self.stations[station]
        for number in each.numbers:
            left = tuple(other for other in self.numbers[number] if other.id != each.id)
            if left:
                self.numbers[number] = left
            else:
                del self.numbers[number]


class Index:
    """The items of all tenants.

    Attributes
    ----------
    revision
        Up to which it knows everything.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._entries: dict[int, Entry] = {}
        self._tenants: defaultdict[str, _Tenant] = defaultdict(_Tenant)
        self.revision = 0

    def put(self, entries: Iterable[Entry], gone: Iterable[int] = ()) -> None:
        """Take entries in place of those with the same identifier, and forget others."""
        with self._lock:
            for item in gone:
                self._drop(item)
            for each in entries:
                self._drop(each.id)
                self._entries[each.id] = each
                self._tenants[each.tenant].put(each)

    def candidates(self, tenant: str, query: Query, today: str) -> Iterator[Entry]:
        """Give the items of a tenant that may match a query, and perhaps others.

        From today on in the order of their start, then those that have none, then the earlier ones, the latest first:
        an answer that can't have all has those that people wait for.
        """
        with self._lock:
            found = self._tenants.get(tenant)
            if found is None:
                return
            named = self._named(found, query)
            sets = self._sets(found, query)
            span = query.days
            days = (
                [] if named is not None else sorted({day for each in sets for day in each.between(span.low, span.high)})
            )
        if named is not None:
            yield from _ordered(named, today)
            return
        coming = bisect_left(days, today)
        past = [day for day in days[:coming] if day]
        for day in (*days[coming:], *([""] if "" in days else []), *reversed(past)):
            with self._lock:
                of_day = {item: each for part in sets for item, each in part.entries.get(day, {}).items()}
            yield from sorted(of_day.values(), key=_start)

    def __len__(self) -> int:
        return len(self._entries)

    def _named(self, found: _Tenant, query: Query) -> list[Entry] | None:
        for keyword in NUMBERS:
            wanted = query.exact(keyword)
            if wanted is not None:
                return list(
                    {each.id: each for value in wanted for each in found.numbers.get((keyword, value), ())}.values()
                )
        return None

    def _sets(self, found: _Tenant, query: Query) -> list[_Days]:
        wanted = query.exact("ScheduledStationAETitle")
        if wanted is None:
            return [found.days]
        return [found.stations[station] for station in wanted if station in found.stations]

    def _drop(self, item: int) -> None:
        old = self._entries.pop(item, None)
        if old is not None:
            self._tenants[old.tenant].drop(old)


def _ordered(entries: Iterable[Entry], today: str) -> Iterator[Entry]:
    known = sorted(entries, key=_start)
    yield from (each for each in known if each.start >= today)
    yield from (each for each in known if not each.start)
    yield from reversed([each for each in known if each.start and each.start < today])


def _start(each: Entry) -> tuple[str, int]:
    return each.start, each.id


def _first(said: Attributes, keyword: str) -> str:
    values = said.get(keyword, ())
    return values[0] if values and isinstance(values[0], str) else ""
