"""Where a mapping looks in a message: one place, and what stands there."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from libs.hl7.message import NULL, Message, Segment

_PLACE = re.compile(r"([A-Z][A-Z0-9]{2})(?:-(\d+)(?:\.(\d+)(?:\.(\d+)|-(\d+))?)?)?")


@dataclass(frozen=True)
class Place:
    """A segment, a field, its components from one to another, or a subcomponent; 0 where it goes no deeper."""

    segment: str
    field: int = 0
    component: int = 0
    last: int = 0
    subcomponent: int = 0


@lru_cache(maxsize=4096)
def place(written: str) -> Place | None:
    """Read a place as a mapping has it, such as `PID-3.4.2`; None for what is another source, such as a keyword."""
    found = _PLACE.fullmatch(written)
    if found is None:
        return None
    field, component, subcomponent, last = (int(part or 0) for part in found.group(2, 3, 4, 5))
    return Place(found[1], field, component, last, subcomponent)


@dataclass(frozen=True)
class Condition:
    """What must stand at a place: one of these values, in capital letters."""

    at: Place
    values: frozenset[str]


@dataclass(frozen=True, eq=False)
class Scope:
    """The segments that a mapping looks at: those of an order first, then those that hold for the whole message.

    Attributes
    ----------
    message
        For delimiters and character set.
    layers
        Segments by name, the nearest first: where one has a segment, those after it are not looked at for it.
    """

    message: Message
    layers: Sequence[Mapping[str, Sequence[Segment]]]

    def segments(self, name: str) -> Sequence[Segment]:
        """Give the segments of a name."""
        for layer in self.layers:
            if name in layer:
                return layer[name]
        return ()

    def with_layer(self, layer: Mapping[str, Sequence[Segment]]) -> "Scope":
        """Look at these segments before all others."""
        return Scope(self.message, (layer, *self.layers))

    def fields(self, at: Place, where: Sequence[Condition] = ()) -> Sequence[str]:
        """Give the repetitions of a place's field that fit all conditions, as they stand."""
        segments = self.segments(at.segment)
        if not segments:
            return ()
        if not where:
            if len(segments) == 1:
                return segments[0].repetitions(at.field)
            return [text for segment in segments for text in segment.repetitions(at.field)]
        return list(self._fitting(segments, at, where))

    def _fitting(self, segments: Sequence[Segment], at: Place, where: Sequence[Condition]) -> Iterator[str]:
        own = [each for each in where if each.at.segment == at.segment]
        same = [each for each in own if each.at.field == at.field]
        others = [each for each in own if each.at.field != at.field]
        for segment in segments:
            if not all(self._fits(segment.repetitions(each.at.field), each) for each in others):
                continue
            for repetition in segment.repetitions(at.field):
                if all(self._fits([repetition], each) for each in same):
                    yield repetition

    def _fits(self, repetitions: Sequence[str], condition: Condition) -> bool:
        for repetition in repetitions:
            # A place without a component stands for all: code or text.
            at = condition.at
            found = [self.text(repetition, at) or ""] if at.component else self.parts(repetition, at)
            if any(text.strip().upper() in condition.values for text in found):
                return True
        return False

    def has(self, at: Place) -> bool:
        """Tell whether a place has a value, or a segment is there."""
        if not at.field:
            return bool(self.segments(at.segment))
        return any(self.text(field, at) not in ("", None) for field in self.fields(at))

    def parts(self, field: str, at: Place, *, first: bool = False) -> list[str]:
        """Give what a field, or a component, consists of: components, or subcomponents, unescaped.

        `""` stays as it is. With `first`, of a component that has parts itself the first of them stands for it.
        """
        delimiters = self.message.delimiters
        if at.component and not at.last:
            components = field.split(delimiters.component)
            inside = components[at.component - 1] if at.component <= len(components) else ""
            pieces = inside.split(delimiters.subcomponent) if delimiters.subcomponent else [inside]
        else:
            pieces = field.split(delimiters.component)
            pieces = pieces[at.component - 1 : at.last] if at.component else pieces
        if first and delimiters.subcomponent:
            pieces = [piece.partition(delimiters.subcomponent)[0] for piece in pieces]
        if not delimiters.escape or delimiters.escape not in field:
            return pieces
        return [self.message.plain(piece) for piece in pieces]

    def text(self, field: str, at: Place) -> str | None:
        """Give the one value of a place, unescaped and without blanks around it; None where it says that it is empty.

        A field stands for its first component. A component stands for all of it, as many senders write an ampersand
        into a text as it is; a subcomponent has to be named.
        """
        delimiters = self.message.delimiters
        value = nth(field, delimiters.component, at.component or 1)
        if at.subcomponent:
            value = nth(value, delimiters.subcomponent, at.subcomponent)
        if NULL in (value, field):
            return None
        return (self.message.plain(value) if delimiters.escape in value else value).strip()


def nth(text: str, delimiter: str, number: int) -> str:
    """Give the part of a text with a number, from 1; empty where there are not so many."""
    if not delimiter or delimiter not in text:
        return text if number == 1 else ""
    pieces = text.split(delimiter, number)
    return pieces[number - 1] if number <= len(pieces) else ""
