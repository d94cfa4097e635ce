"""What can be known to be wrong with HL7 in a definition before a message comes: mappings, and the nodes that send."""

import re
from collections.abc import Iterator, Mapping
from typing import Final

from pydicom.datadict import dictionary_VR, keyword_dict, tag_for_keyword

from contracts.definition import Hl7Mapping, Hl7Value, Node
from libs.definition.attributes import is_dicom_keyword
from libs.definition.document import Path, Problem
from libs.definition.draft import Draft
from libs.definition.fitting import SETTABLE, misfit
from libs.definition.loop import loops
from libs.definition.mappings import BUILT_IN, DEFAULT, resolved
from libs.definition.wording import alike
from libs.hl7.charset import UnknownCharsetError, codec_of

_PLACE: Final = re.compile(r"[A-Z][A-Z0-9]{2}(-[1-9]\d{0,2}(\.[1-9]\d?(\.[1-9]\d?|-[1-9]\d?)?)?)?")
#: What a mapping can name besides the message and other attributes.
SURROUNDINGS: Final = ("node.key", "node.issuer", "site.key", "site.name")
_TIMES: Final = frozenset({"DA", "TM", "DT"})
#: Names of the service for what it makes or says itself.
_OURS: Final = frozenset({"SpecificCharacterSet", "ScheduledProcedureStepSequence", "ScheduledProcedureStepStatus"})


def hl7_problems(draft: Draft) -> Iterator[Problem]:
    """Find what is wrong with mappings, and with nodes that send HL7."""
    for key, mapping in draft.definition.hl7_mappings.items():
        yield from _mapping(draft, key, mapping)
    yield from _nodes(draft)


def _mapping(draft: Draft, key: str, mapping: Hl7Mapping) -> Iterator[Problem]:
    path: Path = ("hl7-mappings", key)
    if key == DEFAULT:
        message = f"{DEFAULT} is the mapping that is built in"
        yield draft.document.problem(path, message, "give this one a name of its own, and extends: default", key=True)
        return
    base = _base(draft, mapping)
    known = {**base, **{name: value for name, value in mapping.set.items() if value is not None}}
    for keyword, value in mapping.set.items():
        at = (*path, "set", keyword)
        if value is None:
            if keyword not in base:
                said = f"{keyword} is taken away, but the mapping that this one extends does not have it"
                yield draft.document.problem(at, said, "", key=True)
            continue
        yield from _Value(draft, known).check(keyword, value, at)
    for loop in _loops(known):
        if len(loop) > 1 and any(keyword in mapping.set for keyword in loop):
            first = next(keyword for keyword in loop if keyword in mapping.set)
            yield draft.document.problem(
                (*path, "set", first), f"{' -> '.join((*loop, loop[0]))}: they refer to each other", "", key=True
            )
    if not mapping.control and mapping.extends is None:
        message = "no `control` says what becomes of orders, so that every order is refused"
        yield draft.document.problem(path, message, "add extends: default, or control: {NW: schedule}", key=True)


def _base(draft: Draft, mapping: Hl7Mapping) -> Mapping[str, Hl7Value | None]:
    """Give what a mapping extends; nothing of what is missing or runs in a loop, which is told elsewhere."""
    if mapping.extends is None:
        return {}
    try:
        return resolved(draft.definition.hl7_mappings, mapping.extends).set
    except (KeyError, RecursionError):
        return BUILT_IN.set


class _Value:
    """Checks the value of one attribute and those inside it."""

    def __init__(self, draft: Draft, known: Mapping[str, Hl7Value | None]) -> None:
        self._draft = draft
        self._known = known

    def check(self, keyword: str, value: Hl7Value, at: Path) -> Iterator[Problem]:
        if not is_dicom_keyword(keyword):
            hint = alike(keyword, map(str, keyword_dict)) or "use a keyword of DICOM PS3.6, such as PatientID"
            yield self._problem(at, f"{keyword} is not a DICOM keyword", hint, key=True)
            return
        if keyword in _OURS:
            yield self._problem(at, f"{keyword} is set by Kivuko itself", "leave it out", key=True)
            return
        tag = tag_for_keyword(keyword)
        vr = dictionary_VR(tag) if tag is not None else "UN"
        yield from self._kind(keyword, vr, value, at)
        yield from self._fits(vr, value, at)
        yield from self._sources(keyword, value, at)
        if value.otherwise is not None:
            yield from self.check(keyword, value.otherwise, (*at, "otherwise"))
        for inner, one in (value.set or {}).items():
            yield from _Value(self._draft, value.set or {}).check(inner, one, (*at, "set", inner))

    def _kind(self, keyword: str, vr: str, value: Hl7Value, at: Path) -> Iterator[Problem]:
        from_message = bool(value.from_ or value.by or value.value is not None or value.default is not None)
        if vr == "SQ":
            if value.set is None and value.as_ != "code":
                hint = "write as: code for a field with a code, or set with the attributes of the items"
                yield self._problem(at, f"{keyword} is a sequence and holds no text", hint)
            elif value.value is not None or value.default is not None or value.by:
                yield self._problem(at, f"{keyword} is a sequence and holds no text", "write set with its attributes")
        elif vr not in SETTABLE:
            yield self._problem(at, f"{keyword} ({vr}) cannot be set by a mapping", "leave it out", key=True)
        elif value.set is not None or value.as_ == "code":
            hint = "write from with the place of its value"
            yield self._problem(at, f"{keyword} ({vr}) is no sequence and has no items", hint)
        for given, allowed, what in (
            (value.as_ in ("name", "staff"), vr == "PN", f"as: {value.as_} is for names of persons"),
            (value.unit is not None, vr == "DS", "unit is for decimal numbers"),
            (value.offset is not None, vr in _TIMES, "offset is for dates and times"),
            (value.station, keyword == "ScheduledStationAETitle", "station is for ScheduledStationAETitle"),
        ):
            if given and not allowed and from_message:
                yield self._problem(at, f"{what}; {keyword} is {vr}", "leave it out")

    def _fits(self, vr: str, value: Hl7Value, at: Path) -> Iterator[Problem]:
        texts: dict[Path, str] = {(*at, "table", code): text for code, text in (value.table or {}).items()}
        if value.value is not None:
            texts[(*at, "value")] = value.value
        if value.default is not None:
            texts[(*at, "default")] = value.default
        for where, text in texts.items():
            wrong = misfit(vr, [text]) if vr in SETTABLE else None
            if wrong is not None:
                yield self._problem(where, f"{text!r} is no value of it: {wrong}")

    def _sources(self, keyword: str, value: Hl7Value, at: Path) -> Iterator[Problem]:
        for part, sources in (("from", value.from_), ("by", value.by), ("unless", value.unless)):
            for position, source in enumerate(sources):
                yield from self._source(keyword, part, source, (*at, part, position))
        if value.each is not None and "-" not in value.each:
            yield self._problem((*at, "each"), "each needs a field that repeats", "write such as PID-3")

    def _source(self, keyword: str, part: str, source: str, at: Path) -> Iterator[Problem]:
        if _PLACE.fullmatch(source):
            if part != "unless" and "-" not in source:
                yield self._problem(at, f"{source} is a whole segment", f"name a field of it, such as {source}-1")
            return
        if part == "unless":
            yield self._problem(at, f"{source} is no place of a message", "write such as IPC or OBR-18")
            return
        if source in SURROUNDINGS:
            return
        if source in self._known and source != keyword:
            return
        if is_dicom_keyword(source):
            said = "itself" if source == keyword else "not set by this mapping"
            yield self._problem(at, f"{source} is {said}", "name a place of the message, such as PID-5")
            return
        hint = alike(source, (*SURROUNDINGS, *self._known)) or "write such as PID-5, OBR-4.2 or PID-3.4.1"
        yield self._problem(at, f"{source} is no place of a message, no attribute, and nothing known of the node", hint)

    def _problem(self, at: Path, message: str, hint: str = "", *, key: bool = False) -> Problem:
        return self._draft.document.problem(at, message, hint, key=key)


def _loops(values: Mapping[str, Hl7Value | None]) -> list[tuple[str, ...]]:
    return loops({keyword: tuple(_named(value)) for keyword, value in values.items() if value is not None})


def _named(value: Hl7Value) -> Iterator[str]:
    """Give the attributes that a value is made of."""
    yield from (source for source in (*value.from_, *value.by) if is_dicom_keyword(source))
    if value.station:
        yield "Modality"
    if value.otherwise is not None:
        yield from _named(value.otherwise)


def _nodes(draft: Draft) -> Iterator[Problem]:
    senders = {key: node for key, node in draft.definition.nodes.items() if node.hl7 is not None and not node.retired}
    for key, node in senders.items():
        hl7 = node.hl7
        if hl7 is None:
            continue
        try:
            codec_of(hl7.charset)
        except UnknownCharsetError:
            yield draft.document.problem(
                ("nodes", key, "hl7", "charset"),
                f"{hl7.charset} is no character set of HL7 table 0211",
                "write such as ASCII, 8859/1 or UNICODE UTF-8",
            )
        if node.host is None and not node.from_:
            yield draft.document.problem(
                ("nodes", key, "hl7"),
                "the node sends HL7, but there is no address to recognise it by",
                "add host, or from with its network",
            )
    keys = list(senders)
    for position, key in enumerate(keys):
        for other in keys[:position]:
            if _alike(senders[key], senders[other]) and _meet(senders[key], senders[other]):
                line, _ = draft.document.key_at(("nodes", other))
                yield draft.document.problem(
                    ("nodes", key, "hl7"),
                    f"messages of {key} cannot be told from those of {other} (line {line}): they come from one address",
                    "give each hl7 an application (MSH-3) or facility (MSH-4) of its own, or a certificate",
                )


def _alike(one: Node, other: Node) -> bool:
    """Tell whether nothing that messages or certificates say tells two nodes apart."""
    if one.hl7 is None or other.hl7 is None or (one.certificate or other.certificate):
        return False
    return (one.hl7.application, one.hl7.facility) == (other.hl7.application, other.hl7.facility)


def _meet(one: Node, other: Node) -> bool:
    """Tell whether two nodes may call from one address, as far as the definition says."""
    if one.from_ and other.from_:
        return any(a.version == b.version and a.overlaps(b) for a in one.from_ for b in other.from_)
    return not one.from_ and not other.from_ and one.host is not None and one.host == other.host
