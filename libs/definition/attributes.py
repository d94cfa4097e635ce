"""What conditions can name: DICOM attributes by keyword with their types, and what surrounds a study.

Keywords, value representations and multiplicities are those of PS3.6 chapter 6; what a value representation holds is in
PS3.5 section 6.2.
"""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache, lru_cache
from typing import Final, Literal

from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_dict

from contracts.fact import Attributes, AttributeValue
from contracts.routing import Trigger

Kind = Literal["text", "integer", "decimal"]


@dataclass(frozen=True)
class AttributeType:
    """Type of an attribute in a condition: one value, or a list of them."""

    kind: Kind
    many: bool = False


_TYPES: Final = {
    (kind, many): AttributeType(kind, many) for kind in ("text", "integer", "decimal") for many in (False, True)
}
_TEXT, _TEXTS = _TYPES["text", False], _TYPES["text", True]
_INTEGER_VRS = frozenset({"IS", "US", "UL", "UV", "SS", "SL", "SV", "US or SS"})
_DECIMAL_VRS = frozenset({"DS", "FL", "FD"})
_TEXT_VRS = frozenset({"AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"})
_INT64 = 2**63
_PRIVATE_ELEMENT: Final = re.compile(r"^([0-9A-Fa-f]{4}),([0-9A-Fa-f]{2})$")
#: Groups below 0009 that are odd are not for private use, PS3.5 section 7.8.
_FIRST_PRIVATE: Final = 0x0009
_CREATOR: Final = re.compile(r"^(?! )[^\\\x00-\x1f\x7f]{1,64}(?<! )$")

#: Most characters of all values of an attribute together, and most values, that a condition is given: with these an
#: evaluation is bounded in time and memory whatever is sent.
MOST_CHARACTERS: Final = 16_384
MOST_VALUES: Final = 4_096
#: The object that a trigger is about: its attributes are what conditions name first.
OBJECTS: Final[Mapping[Trigger, str]] = {
    "instance": "instance",
    "series": "series",
    "study": "study",
    "amended": "study",
    "timer": "study",
    "order": "order",
    "procedure": "procedure",
}
#: What a study has besides DICOM attributes; beside these its tags, `Tags.NAME`.
STUDY_EXTRAS: Mapping[str, AttributeType] = {"Sites": _TEXTS, "Delivered": _TEXTS}
_EXTRAS: Final[Mapping[str, Mapping[str, AttributeType]]] = {"study": STUDY_EXTRAS, "series": {"Sites": _TEXTS}}
#: What is known beside attributes, by name: fields, all of them text.
CIRCUMSTANCES: Mapping[str, tuple[str, ...]] = {
    "source": ("node", "site", "tenant", "aet", "called", "address", "subject", "modality"),
    "site": ("key", "name", "tenant"),
    "order": (
        *("accession", "priority", "modality", "station", "procedure", "code", "physician", "service", "location"),
        *("patient_class", "reason"),
    ),
    "procedure": ("station", "modality", "accession", "status"),
    "clock": ("time", "date", "day"),
}


def circumstances_of(trigger: Trigger) -> Mapping[str, tuple[str, ...]]:
    """Give what is known beside attributes when a trigger fires."""
    return {name: fields for name, fields in CIRCUMSTANCES.items() if name != "procedure" or trigger == "procedure"}


@cache
def dicom_attributes() -> Mapping[str, AttributeType]:
    """Give the type of every DICOM keyword that a condition can read: no sequences, no binary values."""
    offered = {}
    for keyword, tag in keyword_dict.items():
        kind = _kind(dictionary_VR(tag))
        if keyword and kind is not None:
            offered[keyword] = _TYPES[kind, dictionary_VM(tag) != "1"]
    return offered


def is_dicom_keyword(keyword: str) -> bool:
    """Tell whether PS3.6 has the keyword, whatever its value representation."""
    return keyword in keyword_dict


@cache
def sequences() -> frozenset[str]:
    """Give the keywords of the sequences of PS3.6: conditions read what stands inside them."""
    return frozenset(keyword for keyword, tag in keyword_dict.items() if keyword and dictionary_VR(tag) == "SQ")


@cache
def offered_attributes(trigger: Trigger) -> Mapping[str, AttributeType]:
    """Give what the object of a trigger offers by keyword: `instance.X`, `series.X` or `study.X`."""
    name = OBJECTS[trigger]
    return {} if name in CIRCUMSTANCES else {**dicom_attributes(), **_EXTRAS.get(name, {})}


@lru_cache(maxsize=16_384)
def type_of(key: str, trigger: Trigger) -> AttributeType | None:
    """Give the type of what a condition reads of the trigger's object; none if there is no such thing.

    Parameters
    ----------
    key
        A keyword; a path of keywords, `RequestAttributesSequence.RequestedProcedureID`: the values of all items; a
        private element, as `private_key` writes it; a tag of the study, `Tags.NAME`.
    trigger
        Whose object it is.
    """
    if key.startswith("("):
        return _TEXT if offered_attributes(trigger) else None
    *outer, last = key.split(".")
    if outer == ["Tags"]:
        return _TEXT if OBJECTS[trigger] == "study" else None
    known = dicom_attributes().get(last) if outer else offered_attributes(trigger).get(last)
    if known is None or not all(one in sequences() for one in outer):
        return None
    return _TYPES[known.kind, True] if outer else known


def private_key(creator: str, element: str) -> str | None:
    """Name a private element, PS3.5 section 7.8.1: `(0029,xx10) SIEMENS CSA HEADER`; none if it can't be one.

    Parameters
    ----------
    creator
        Private creator, as it reserves the block.
    element
        Group and last two digits of the element, `gggg,ee`, hexadecimal.
    """
    given = _PRIVATE_ELEMENT.match(element)
    if given is None or int(given[1], 16) % 2 == 0 or int(given[1], 16) < _FIRST_PRIVATE or not _CREATOR.match(creator):
        return None
    return f"({given[1].upper()},xx{given[2].upper()}) {creator}"


def _kind(vr: str) -> Kind | None:
    if vr in _TEXT_VRS:
        return "text"
    if vr in _INTEGER_VRS:
        return "integer"
    return "decimal" if vr in _DECIMAL_VRS else None


def coerce(value: object, wanted: AttributeType) -> AttributeValue | None:
    r"""Bring a value into the form that conditions see.

    Several values where the dictionary allows one become one text with backslashes, as DICOM writes them (PS3.5
    section 6.4), so that `contains` still finds them; several numbers where one is allowed are not readable.

    Returns
    -------
    AttributeValue | None
        The value, or none if it can't be read as what the dictionary says.
    """
    given = list(value) if isinstance(value, list | tuple) else [value]
    values = [_scalar(one, wanted.kind) for one in given]
    if any(one is None for one in values):
        return None
    if wanted.many:
        return values  # type: ignore[return-value]  # each element is of the wanted kind
    if wanted.kind == "text" and len(values) != 1:
        return "\\".join(str(one) for one in values)
    return values[0] if len(values) == 1 else None


def _scalar(value: object, kind: Kind) -> str | int | float | None:
    if isinstance(value, bool) or not isinstance(value, str | int | float):
        return None
    if kind == "text":
        # A lone surrogate can't be carried in a protobuf string.
        return str(value).encode(errors="replace").decode()
    try:
        number = float(value) if kind == "decimal" else _whole(value)
    except (ValueError, OverflowError):
        return None
    # What is no number is neither smaller nor larger than another, and JSON has no word for it.
    return number if (math.isfinite(number) if kind == "decimal" else -_INT64 <= number < _INT64) else None


def _whole(value: str | float) -> int:
    if isinstance(value, float) and not (math.isfinite(value) and value.is_integer()):
        raise ValueError("not a whole number")
    return int(value)


def readable(
    attributes: Mapping[str, object], trigger: Trigger, wanted: Collection[str]
) -> tuple[Attributes, dict[str, str]]:
    """Pick the attributes that conditions read, in the form that they see.

    Parameters
    ----------
    attributes
        Value by keyword, path, private element or tag, see `type_of`; absent attributes are absent.
    trigger
        Whose offer counts.
    wanted
        What is read.

    Returns
    -------
    tuple[Attributes, dict[str, str]]
        The readable ones; and what is there and can't be read, with the reason, without values.
    """
    picked: Attributes = {}
    unreadable = {}
    for key in wanted:
        given = attributes.get(key)
        if given is None or given == "":
            continue
        kind = type_of(key, trigger)
        if kind is _TEXT and type(given) is str and len(given) <= MOST_CHARACTERS and given.isascii():
            picked[key] = given
            continue
        if kind is None or _is_huge(given):
            unreadable[key] = f"has more than {MOST_CHARACTERS:,} characters or {MOST_VALUES:,} values"
            continue
        value = coerce(given, kind)
        if value is None:
            unreadable[key] = "can't be read as what DICOM says it is"
        elif value not in ("", []):
            picked[key] = value
    return picked, unreadable


def _is_huge(value: object) -> bool:
    if isinstance(value, list | tuple):
        return len(value) > MOST_VALUES or sum(len(one) for one in value if isinstance(one, str)) > MOST_CHARACTERS
    return isinstance(value, str) and len(value) > MOST_CHARACTERS
