"""The data dictionary, PS3.6: the table that pydicom brings, without the rest of it.

Receivers need a handful of entries, in each of several processes; the whole library takes twenty megabytes and a third
of a second there.
"""

import sys
from functools import cache, lru_cache
from importlib.machinery import PathFinder
from importlib.util import find_spec, module_from_spec
from types import ModuleType
from typing import Final

_NAME: Final = "pydicom._dicom_dict"
#: VR, VM, name, retired, keyword.
_Entry = tuple[str, str, str, str, str]


def _table() -> ModuleType:
    if _NAME in sys.modules:
        return sys.modules[_NAME]
    # Of a package that is found, not imported.
    package = find_spec("pydicom")
    found = None if package is None else PathFinder.find_spec(_NAME, package.submodule_search_locations)
    if found is None or found.loader is None:
        raise ModuleNotFoundError("pydicom's data dictionary is not where it was", name=_NAME)
    table = module_from_spec(found)
    found.loader.exec_module(table)
    return table


_TABLE: Final = _table()
_ELEMENTS: Final[dict[int, _Entry]] = _TABLE.DicomDictionary
#: Repeating groups such as (60xx,3000): mask of the digits that count, their value, and the entry.
_REPEATING: Final[tuple[tuple[int, int, _Entry], ...]] = tuple(
    (
        int("".join("0" if digit == "x" else "F" for digit in mask), 16),
        int(mask.replace("x", "0"), 16),
        entry,
    )
    for mask, entry in _TABLE.RepeatersDictionary.items()
)


@lru_cache(maxsize=8192)
def known_vr(tag: int) -> str:
    """Look up the VR of an element that doesn't say it itself (implicit VR); `UN` for one that is not listed."""
    entry = _entry(tag)
    return "UN" if entry is None else entry[0]


@lru_cache(maxsize=1024)
def is_single(tag: int) -> bool:
    """Tell whether an element has one value only. Raises KeyError for one that is not listed."""
    entry = _entry(tag)
    if entry is None:
        raise KeyError(f"({tag >> 16:04X},{tag & 0xFFFF:04X})")
    return entry[1] == "1"


def keyword_of(tag: int) -> str:
    """Give an element's keyword; empty for one that is not listed."""
    entry = _entry(tag)
    return "" if entry is None else entry[4]


def tag_of(keyword: str) -> int | None:
    """Find the element of a keyword, repeating groups excepted; None for one that is not listed."""
    return _tags().get(keyword)


def tags_of(keywords: frozenset[str]) -> dict[str, int]:
    """Find the elements of keywords, repeating groups excepted."""
    return {entry[4]: tag for tag, entry in _ELEMENTS.items() if entry[4] in keywords}


@cache
def _tags() -> dict[str, int]:
    return {entry[4]: tag for tag, entry in _ELEMENTS.items() if entry[4]}


def _entry(tag: int) -> _Entry | None:
    entry = _ELEMENTS.get(tag)
    # Private groups are odd, and repeat nobody's.
    if entry is not None or tag & 0x10000:
        return entry
    return next((entry for counts, value, entry in _REPEATING if tag & counts == value), None)
