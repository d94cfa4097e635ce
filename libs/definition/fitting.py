"""Which texts fit a value representation: PS3.5 section 6.2."""

import re
from collections.abc import Callable, Sequence
from datetime import date
from typing import Final

#: VRs whose values a transform can set, as texts.
SETTABLE: Final = frozenset(
    {
        "AE",
        "AS",
        "CS",
        "DA",
        "DS",
        "DT",
        "FD",
        "FL",
        "IS",
        "LO",
        "LT",
        "PN",
        "SH",
        "SL",
        "SS",
        "ST",
        "SV",
        "TM",
        "UC",
        "UI",
        "UL",
        "UR",
        "US",
        "UT",
        "UV",
    }
)
#: VRs whose values are texts that can be put together.
TEXT: Final = frozenset(
    {"AE", "AS", "CS", "DA", "DS", "DT", "IS", "LO", "LT", "PN", "SH", "ST", "TM", "UC", "UI", "UR", "UT"}
)
#: VRs in which a backslash does not separate values.
ONE_VALUE: Final = frozenset({"LT", "ST", "UR", "UT"})
_LONGEST: Final = {"AE": 16, "CS": 16, "DS": 16, "IS": 12, "LO": 64, "LT": 10240, "SH": 16, "ST": 1024, "UI": 64}
_NAME_PART: Final = 64
_FORMS: Final = {
    "AS": (re.compile(r"[0-9]{3}[DWMY]"), "an age such as 034Y"),
    "CS": (re.compile(r"[A-Z0-9 _]*"), "capital letters, digits, spaces and underscores"),
    "DS": (re.compile(r" *[+-]?([0-9]+\.?[0-9]*|\.[0-9]+)([Ee][+-]?[0-9]+)? *"), "a number"),
    "DT": (re.compile(r"[0-9]{4}([0-9]{2}){0,5}(\.[0-9]{1,6})?([+-][0-9]{4})? *"), "a time such as 20261120103000"),
    "IS": (re.compile(r" *[+-]?[0-9]+ *"), "a whole number"),
    "TM": (re.compile(r"([01][0-9]|2[0-3])([0-5][0-9]([0-5][0-9](\.[0-9]{1,6})?)?)? *"), "a time such as 103000"),
    "UI": (re.compile(r"(0|[1-9][0-9]*)(\.(0|[1-9][0-9]*))*"), "a UID"),
    "UR": (re.compile(r"\S+.*"), "an address"),
}
_RANGES: Final = {
    "SL": (-(2**31), 2**31 - 1),
    "SS": (-(2**15), 2**15 - 1),
    "SV": (-(2**63), 2**63 - 1),
    "UL": (0, 2**32 - 1),
    "US": (0, 2**16 - 1),
    "UV": (0, 2**64 - 1),
}
_CONTROL: Final = re.compile(r"[\x00-\x1a\x1c-\x1f\x7f]")
_CONTROL_BUT_LINES: Final = re.compile(r"[\x00-\x08\x0b\x0e-\x1a\x1c-\x1f\x7f]")
_LINES: Final = frozenset({"LT", "ST", "UT"})


def values_of(vr: str, text: str) -> list[str]:
    """Split a text into the values that it stands for."""
    return [text] if vr in ONE_VALUE else text.split("\\")


def misfit(vr: str, values: Sequence[str]) -> str | None:
    """Say why texts are no values of a value representation, without repeating them; none if they are.

    Parameters
    ----------
    vr
        One of `SETTABLE`.
    values
        One or more; an empty text is an empty value and fits.
    """
    for value in values:
        if not value:
            continue
        if (_CONTROL_BUT_LINES if vr in _LINES else _CONTROL).search(value):
            return f"a value of {vr} holds no control characters"
        if len(value) > _LONGEST.get(vr, len(value)):
            return f"a value of {vr} has at most {_LONGEST[vr]} characters"
        if vr in _CHECKS and not _CHECKS[vr](value):
            return f"a value of {vr} is {_SAID[vr]}"
        if vr in _FORMS and not _FORMS[vr][0].fullmatch(value):
            return f"a value of {vr} is {_FORMS[vr][1]}"
    return None


def _is_date(value: str) -> bool:
    try:
        return len(value.strip()) == 8 and value.strip().isdecimal() and bool(date.fromisoformat(value.strip()))  # noqa: PLR2004 (YYYYMMDD)
    except ValueError:
        return False


def _is_name(value: str) -> bool:
    return value.count("=") <= 2 and all(len(part) <= _NAME_PART for part in value.split("="))  # noqa: PLR2004 (three groups)


def _is_float(value: str) -> bool:
    try:
        float(value)
    except ValueError:
        return False
    return True


def _within(vr: str) -> Callable[[str], bool]:
    lowest, highest = _RANGES[vr]
    return lambda value: bool(re.fullmatch(r"-?[0-9]{1,20}", value)) and lowest <= int(value) <= highest


_CHECKS: Final[dict[str, Callable[[str], bool]]] = {
    "DA": _is_date,
    "PN": _is_name,
    "FD": _is_float,
    "FL": _is_float,
    **{vr: _within(vr) for vr in _RANGES},
}
_SAID: Final = {
    "DA": "a date such as 20261120",
    "PN": "a name with at most 3 groups of at most 64 characters",
    "FD": "a number",
    "FL": "a number",
    **{vr: f"a whole number from {low} to {high}" for vr, (low, high) in _RANGES.items()},
}
