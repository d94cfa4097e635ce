"""What a mapping of the network definition makes of a message: attributes, where each comes from, and what was lost."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import tzinfo
from fnmatch import fnmatchcase
from typing import Final

from contracts.definition import Hl7Value
from libs.hl7.delimiter import Delimiters
from libs.hl7.message import NULL, Segment
from services.worklist.attributes import Attributes
from services.worklist.conversion import IDENTIFIERS, LostError, added, fit, measure, moment, person
from services.worklist.place import Place, Scope, nth, place
from services.worklist.rule import NOTHING, OFFSET, Found, Rule
from services.worklist.verbatim import verbatim

#: Longest Code Value (0008,0100); longer ones have an attribute of their own, PS3.3 section 8.1.
_LONGEST_CODE: Final = 16
#: Coding scheme of codes whose sender names none: a local one, PS3.3 section 8.2.
_LOCAL: Final = "L"
#: Groups of a name by the code of its representation, XPN-8.
_GROUPS: Final = {"A": 0, "I": 1, "P": 2}
_REPRESENTATION: Final = 8
_REPLACED: Final = "\N{REPLACEMENT CHARACTER}"
_TIMES: Final = frozenset({"DA", "TM", "DT"})


@dataclass(frozen=True)
class Surroundings:
    """What is known of a sender besides its message.

    Attributes
    ----------
    named
        What a mapping can name of it: `node.key`, `node.issuer`, `site.key`, `site.name`.
    zone
        Time zone of its site.
    stations
        AE titles of the site's nodes that may ask for a worklist, by modality.
    """

    named: Mapping[str, str]
    zone: tzinfo
    stations: Mapping[str, tuple[str, ...]] = field(default_factory=dict)


#: Origins of what no message says.
_FIXED: Final = frozenset({"value", "default"})


class Reading:
    """A mapping on one scope of a message. Each attribute is read once, as others may refer to it."""

    def __init__(self, rules: Mapping[str, Rule], scope: Scope, surroundings: Surroundings) -> None:
        self._rules = rules
        self._scope = scope
        self._surroundings = surroundings
        self._known: dict[str, Found] = {}

    def found(self, keyword: str) -> Found:
        """Give what the mapping makes of an attribute."""
        known = self._known.get(keyword)
        if known is not None:
            return known
        rule = self._rules.get(keyword)
        if rule is not None and rule.verbatim:
            known = verbatim(rule, self._scope.layers)
        if known is None:
            # While it is read it is nothing to itself: a definition is checked for such loops.
            self._known[keyword] = NOTHING
            known = NOTHING if rule is None else self._read(rule)
        self._known[keyword] = known
        return known

    def _read(self, rule: Rule) -> Found:
        scope = self._scope
        if not rule.unless and rule.otherwise is None:
            return self._own(rule, scope)
        found = NOTHING
        if not any(scope.has(each) for each in rule.unless):
            found = self._own(rule, scope)
        if found.values is None and rule.otherwise is not None:
            other = self._read(rule.otherwise)
            return Found(other.values, other.origin, (*found.notes, *other.notes)) if found.notes else other
        return found

    def _own(self, rule: Rule, scope: Scope) -> Found:
        said = rule.said
        if said.value is not None:
            return Found((said.value,) if said.value else (), "value")
        if rule.items is not None:
            return self._items(rule, rule.items, scope)
        found = self._looked_up(rule, scope) if rule.by else self._first(rule, scope)
        if found.values is None and said.station:
            modality = (self.found("Modality").values or ("",))[0]
            titles = self._surroundings.stations.get(str(modality), ())
            if titles:
                return Found(titles, f"nodes of the site with modality {modality}", found.notes)
        if found.values is None and said.default is not None:
            return Found((said.default,) if said.default else (), "default", found.notes)
        return found

    def _first(self, rule: Rule, scope: Scope) -> Found:
        notes: tuple[str, ...] = ()
        for source, at in rule.sources:
            text = None if at is None else _plainly(rule, scope.segments(at.segment), at)
            if text == "":
                continue
            if text and len(text) <= rule.short:
                return Found((text,), source, notes)
            alone = text if not rule.joins else None
            found = self._one(rule, source, alone) if alone else self._source(rule, source, at, scope)
            if found.values is not None:
                return Found(found.values, found.origin, (*notes, *found.notes)) if notes else found
            notes = (*notes, *found.notes)
        return Found(None, "", notes) if notes else NOTHING

    def _source(self, rule: Rule, source: str, at: Place | None, scope: Scope) -> Found:
        kind = rule.said.as_
        if at is None:
            texts: list[str | None] = list(self._named(source))
        elif kind == "code":
            return _codes(scope, rule, at, source)
        elif rule.said.unit is not None:
            return _measured(scope, rule, at, source)
        else:
            read = _READERS[kind]
            fields = scope.fields(at, rule.where)
            if not fields:
                return NOTHING
            texts = [read(scope, each, at) for each in fields]
            if kind == "name" and len(texts) > 1:
                texts = _represented(scope, rule, at, texts)
        given = [text for text in texts if text]
        if not given:
            return Found((), source) if None in texts else NOTHING
        return self._fitted(rule, source, given)

    def _named(self, source: str) -> Sequence[str]:
        if "." in source:
            return (self._surroundings.named.get(source, ""),)
        return tuple(value for value in self.found(source).values or () if isinstance(value, str))

    def _fitted(self, rule: Rule, source: str, given: Sequence[str]) -> Found:
        keyword, kind = rule.keyword, rule.element
        if len(given) == 1 or (kind.single and not rule.joins):
            return self._one(rule, source, given[0])
        joined = rule.joins
        chosen = given if joined or not kind.single else given[:1]
        made, notes = [], []
        for text in chosen:
            try:
                value, note = self._value(keyword, kind.vr, rule.said, text)
            except LostError as error:
                notes.append(f"{source}: not taken over, because {error}")
                continue
            if note:
                notes.append(f"{source}: {note}")
            made.append(value)
        if not made:
            return Found(None, "", tuple(notes))
        values = tuple(value for value in made if value)
        if joined and len(values) > 1:
            last = fit(keyword, kind.vr, "\n".join(value.replace("\r\n", "\n") for value in values))
            return Found((last.value,), source, (*notes, *((f"{source}: {last.note}",) if last.note else ())))
        return Found(values, source, tuple(notes))

    def _one(self, rule: Rule, source: str, text: str) -> Found:
        try:
            value, note = self._value(rule.keyword, rule.element.vr, rule.said, text)
        except LostError as error:
            return Found(None, "", (f"{source}: not taken over, because {error}",))
        if not value and rule.keyword == OFFSET:
            # A time that says no zone says nothing of it.
            return NOTHING
        return Found((value,) if value else (), source, (f"{source}: {note}",) if note else ())

    def _value(self, keyword: str, vr: str, rule: Hl7Value, text: str) -> tuple[str, str]:
        if rule.table is not None and not rule.by:
            listed = rule.table.get(text, rule.table.get(text.upper()))
            if listed is not None:
                return listed, ""
            if rule.unlisted == "drop":
                return "", ""
            if rule.unlisted == "warn":
                raise LostError("the code is not in the table of the mapping")
        if _REPLACED in text and (keyword in IDENTIFIERS or vr in ("UI", "AE", "CS", "DA", "TM")):
            raise LostError("it has characters that are not of the character set of the message")
        if vr in _TIMES or keyword == OFFSET:
            return self._time(keyword, vr, rule, text)
        fitted = fit(keyword, vr, text)
        if _REPLACED in text:
            return fitted.value, "; ".join(
                filter(None, (fitted.note, "has characters that are not of the character set of the message"))
            )
        return fitted.value, fitted.note

    def _time(self, keyword: str, vr: str, rule: Hl7Value, text: str) -> tuple[str, str]:
        # A day of birth is a day wherever one is.
        found = moment(text[:8] if keyword == "PatientBirthDate" else text, self._surroundings.zone, added(rule.offset))
        if keyword == OFFSET:
            return found.offset, ""
        if vr == "DT":
            return found.date + found.time, ""
        value = found.date if vr == "DA" else found.time
        if not value and vr == "DA":
            raise LostError("it gives no day")
        return value, ""

    def _looked_up(self, rule: Rule, scope: Scope) -> Found:
        said = rule.said
        keys = []
        for source, at in rule.by:
            texts = (
                self._named(source) if at is None else [scope.text(each, at) for each in scope.fields(at, rule.where)]
            )
            keys.append(next((text for text in texts if text), ""))
        if not any(keys):
            return NOTHING
        key, origin = "/".join(keys), ", ".join(said.by)
        table = said.table or {}
        for listed, value in table.items():
            if listed == key or fnmatchcase(key.upper(), listed.upper()):
                return Found((value,) if value else (), origin)
        if said.unlisted == "keep":
            return Found((keys[0],), origin)
        lost = f"{origin}: not taken over, because the codes are not in the table of the mapping"
        return Found(None, "", (lost,) if said.unlisted == "warn" else ())

    def _items(self, rule: Rule, inner: Mapping[str, Rule], scope: Scope) -> Found:
        at = place(rule.said.each or "")
        if at is None:
            scopes = [scope]
        else:
            scopes = [
                scope.with_layer({at.segment: [segment.only(at.field, repetition)]})
                for segment in scope.segments(at.segment)
                for repetition in segment.repetitions(at.field)
            ]
        items: list[Attributes] = []
        origins: dict[str, None] = {}
        notes: list[str] = []
        for each in scopes:
            reading = Reading(inner, each, self._surroundings)
            item: dict[str, tuple[str | Attributes, ...]] = {}
            said: dict[str, None] = {}
            for keyword in inner:
                values, origin, those = reading.found(keyword)
                notes += [f"{keyword}: {note}" for note in those]
                if values:
                    item[keyword] = values
                    said[origin] = None
            # What is fixed says nothing by itself.
            if said.keys() - _FIXED:
                items.append(item)
                origins |= said
        if not items:
            return Found(None, "", tuple(notes))
        return Found(tuple(items), rule.said.each or ", ".join(origins), tuple(notes))


def _plainly(rule: Rule, segments: Sequence[Segment], at: Place) -> str | None:
    """Give the text of a place where that is all that the rule asks for; None where it takes the longer way.

    Most values of most messages are such texts, and the longer way costs five times as much.
    """
    if not segments:
        return ""
    if not rule.plain:
        return None
    if rule.joins:
        return _lines(segments, at)
    return _alone(segments[0], at, several=rule.element.single) if len(segments) == 1 else None


def _alone(segment: Segment, at: Place, *, several: bool = False) -> str | None:
    """Give the text of a field; with `several`, that of the first repetition which has one."""
    field = segment.field(at.field)
    if not field:
        return ""
    marks = segment.delimiters
    if marks.repetition and marks.repetition in field:
        if not several or segment.name == "MSH":
            return None
        texts = (_bare(each, marks, at) for each in field.split(marks.repetition))
        return next((text for text in texts if text != ""), "")
    return _bare(field, marks, at)


def _bare(field: str, marks: Delimiters, at: Place) -> str | None:
    if '"' in field:
        return None
    text = nth(field, marks.component, at.component or 1)
    if at.subcomponent:
        text = nth(text, marks.subcomponent, at.subcomponent)
    if "\\" in text or _REPLACED in text or not text.isprintable():
        return None
    return None if marks.escape and marks.escape in text else text.strip()


def _lines(segments: Sequence[Segment], at: Place) -> str | None:
    lines = [_alone(segment, at) for segment in segments]
    return None if None in lines else "\r\n".join(line for line in lines if line)


def _text(scope: Scope, field: str, at: Place) -> str | None:
    return scope.text(field, at)


def _whole(scope: Scope, field: str, at: Place) -> str | None:
    del at
    return None if field == NULL else scope.message.plain(field).strip()


def _name(scope: Scope, field: str, at: Place) -> str | None:
    return None if field == NULL else person(scope.parts(field, at, first=True))


def _staff(scope: Scope, field: str, at: Place) -> str | None:
    # XCN and CNN begin with an identifier; a sender that knows only names leaves it empty.
    return None if field == NULL else person(scope.parts(field, at, first=True)[1:])


def _address(scope: Scope, field: str, at: Place) -> str | None:
    if field == NULL:
        return None
    parts = scope.parts(field, at, first=True)[:6]
    return ", ".join(part.strip() for part in parts if part.strip() and part != NULL)


_READERS: Final[Mapping[str, Callable[[Scope, str, Place], str | None]]] = {
    "text": _text,
    "whole": _whole,
    "name": _name,
    "staff": _staff,
    "address": _address,
}


def _represented(scope: Scope, rule: Rule, at: Place, names: list[str | None]) -> list[str | None]:
    """Put the repetitions of a name that are alphabetic, ideographic and phonetic into one with three groups."""
    groups = ["", "", ""]
    for each, name in zip(scope.fields(at, rule.where), names, strict=True):
        parts = scope.parts(each, at)
        code = parts[_REPRESENTATION - 1].strip().upper() if len(parts) >= _REPRESENTATION else ""
        if code in _GROUPS and name and not groups[_GROUPS[code]]:
            groups[_GROUPS[code]] = name
    if not any(groups[1:]):
        return names
    if not groups[0]:
        groups[0] = next((name for name in names if name and name not in groups), "")
    return ["=".join(groups).rstrip("=")]


def _codes(scope: Scope, rule: Rule, at: Place, source: str) -> Found:
    items: list[Attributes] = []
    notes: list[str] = []
    null = False
    for each in scope.fields(at, rule.where):
        if each == NULL:
            null = True
            continue
        parts = ["" if part == NULL else part.strip() for part in scope.parts(each, at)]
        code, meaning, scheme = (*parts, "", "", "")[:3]
        if not code:
            continue
        if _REPLACED in code:
            notes.append(f"{source}: the code has characters that are not of the character set of the message")
            continue
        keyword = "CodeValue" if len(code) <= _LONGEST_CODE else "LongCodeValue"
        said, scheme_of = fit("CodeMeaning", "LO", meaning or code), fit("CodeMeaning", "SH", scheme or _LOCAL)
        notes += [f"{source}: {part.note}" for part in (said, scheme_of) if part.note]
        items.append({keyword: (code,), "CodingSchemeDesignator": (scheme_of.value,), "CodeMeaning": (said.value,)})
    if not items:
        return Found(() if null else None, source if null else "", tuple(notes))
    return Found(tuple(items), source, tuple(notes))


def _measured(scope: Scope, rule: Rule, at: Place, source: str) -> Found:
    named = rule.said.unit
    unit_at = None if named is None else place(named.from_)
    if named is None or unit_at is None:
        return NOTHING
    notes: list[str] = []
    for segment in scope.segments(at.segment):
        # The unit of the same segment, not of another.
        alone = scope.with_layer({at.segment: [segment]})
        for each in alone.fields(at, rule.where):
            text = alone.text(each, at)
            if text is None:
                return Found((), source)
            if not text:
                continue
            unit = next((alone.text(found, unit_at) or "" for found in alone.fields(unit_at)), "")
            try:
                fitted = measure(text, unit, named.to)
            except LostError as error:
                notes.append(f"{source}: not taken over, because {error}")
                continue
            return Found((fitted,), f"{source} in {unit}" if unit else source, tuple(notes))
    return Found(None, "", tuple(notes))
