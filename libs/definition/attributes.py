"""What conditions can name: DICOM attributes by keyword with their types, and what surrounds a study.

Keywords, value representations and multiplicities are those of PS3.6 chapter 6; what a value representation holds is in
PS3.5 section 6.2.
"""

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import cache
from typing import Literal

from pydicom.datadict import dictionary_VM, dictionary_VR, keyword_dict

from contracts.fact import Attributes, AttributeValue
from contracts.routing import Trigger

Kind = Literal["text", "integer", "decimal"]


@dataclass(frozen=True)
class AttributeType:
    """Type of an attribute in a condition: one value, or a list of them."""

    kind: Kind
    many: bool = False


_TEXT, _TEXTS = AttributeType("text"), AttributeType("text", many=True)
_INTEGER_VRS = frozenset({"IS", "US", "UL", "UV", "SS", "SL", "SV", "US or SS"})
_DECIMAL_VRS = frozenset({"DS", "FL", "FD"})
_TEXT_VRS = frozenset({"AE", "AS", "CS", "DA", "DT", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"})
_INT64 = 2**63

#: What a study has besides DICOM attributes.
STUDY_EXTRAS: Mapping[str, AttributeType] = {"Sites": _TEXTS, "Delivered": _TEXTS}
#: What is known beside attributes, by name: fields, all of them text.
CIRCUMSTANCES: Mapping[str, tuple[str, ...]] = {
    "source": ("node", "site", "tenant", "aet", "called", "address", "modality"),
    "site": ("key", "name", "tenant"),
    "order": ("accession", "priority", "modality", "station"),
}


@cache
def dicom_attributes() -> Mapping[str, AttributeType]:
    """Give the type of every DICOM keyword that a condition can read: no sequences, no binary values."""
    offered = {}
    for keyword, tag in keyword_dict.items():
        kind = _kind(dictionary_VR(tag))
        if keyword and kind is not None:
            offered[keyword] = AttributeType(kind, many=dictionary_VM(tag) != "1")
    return offered


def is_dicom_keyword(keyword: str) -> bool:
    """Tell whether PS3.6 has the keyword, whatever its value representation."""
    return keyword in keyword_dict


@cache
def offered_attributes(trigger: Trigger) -> Mapping[str, AttributeType]:
    """Give what the object of a trigger offers: `instance.X` or `study.X`."""
    return dicom_attributes() if trigger == "instance" else {**dicom_attributes(), **STUDY_EXTRAS}


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
    return number if kind == "decimal" or -_INT64 <= number < _INT64 else None


def _whole(value: str | float) -> int:
    if isinstance(value, float) and not (math.isfinite(value) and value.is_integer()):
        raise ValueError("not a whole number")
    return int(value)


def readable(
    attributes: Mapping[str, object], trigger: Trigger, wanted: Collection[str]
) -> tuple[Attributes, list[str]]:
    """Pick the attributes that conditions read, in the form that they see.

    Parameters
    ----------
    attributes
        DICOM keyword to value; absent attributes are absent.
    trigger
        Whose offer counts.
    wanted
        Keywords that are read.

    Returns
    -------
    tuple[Attributes, list[str]]
        The readable ones, and the keywords of those that are there but can't be read as their type.
    """
    offered = offered_attributes(trigger)
    picked: Attributes = {}
    unreadable = []
    for keyword in sorted(wanted):
        if keyword not in attributes or attributes[keyword] is None:
            continue
        value = coerce(attributes[keyword], offered[keyword])
        if value is None:
            unreadable.append(keyword)
        elif value not in ("", []):
            picked[keyword] = value
    return picked, unreadable
