"""Values picked out of a header document, written after the DICOM JSON Model (PS3.18 annex F).

What is wanted is named by keyword; by keywords down into sequences, `RequestAttributesSequence.RequestedProcedureID`,
for the values of all items; or as a private element of a creator, `(0029,xx10) SIEMENS CSA HEADER`.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any, Final

from contracts.fact import Attributes, AttributeValue

_PRIVATE: Final = re.compile(r"^\(([0-9A-F]{4}),xx([0-9A-F]{2})\) (.+)$", re.DOTALL)
#: Elements of a group that name the creators of its blocks, PS3.5 section 7.8.1.
_CREATORS: Final = range(0x10, 0x100)


def pick(document: Mapping[str, Any], wanted: Collection[str]) -> Attributes:
    """Pick the values that are wanted and there.

    Parameters
    ----------
    document
        Tag (eight hexadecimal digits) to `{"vr": ..., "keyword": ..., "Value": [...]}`.
    wanted
        Names, as above.

    Returns
    -------
    dict
        Values by name; of what is wanted by path, always a list.
    """
    keywords = {name for name in wanted if not name.startswith("(") and "." not in name}
    picked: Attributes = {}
    for entry in document.values():
        keyword, values = entry.get("keyword"), entry.get("Value")
        if keyword in keywords and values and entry.get("vr") != "SQ":
            picked[keyword] = values[0] if len(values) == 1 else values
    for name in wanted:
        found: AttributeValue | None = None
        if name.startswith("("):
            found = _private(document, name)
        elif "." in name:
            found = list(_inside([document], name.split("."))) or None
        if found is not None:
            picked[name] = found
    return picked


def _inside(items: list[Mapping[str, Any]], path: list[str]) -> Iterator[Any]:
    """Give the values at the end of a path, of all items on the way, in their order."""
    keyword, *rest = path
    for item in items:
        for entry in item.values():
            if entry.get("keyword") != keyword:
                continue
            values = entry.get("Value") or []
            if rest and entry.get("vr") == "SQ":
                yield from _inside([one for one in values if isinstance(one, dict)], rest)
            elif not rest:
                yield from (one for one in values if isinstance(one, str | int | float))


def _private(document: Mapping[str, Any], name: str) -> AttributeValue | None:
    known = _PRIVATE.match(name)
    if known is None:
        return None
    group, element, creator = known.groups()
    for block in _CREATORS:
        said = (document.get(f"{group}00{block:02X}") or {}).get("Value") or []
        if said and str(said[0]).strip() == creator:
            values = (document.get(f"{group}{block:02X}{element}") or {}).get("Value") or []
            if values and all(isinstance(one, str | int | float) for one in values):
                return values[0] if len(values) == 1 else list(values)
    return None
