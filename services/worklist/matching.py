"""Whether a value matches a key: PS3.4 section C.2.2.2, as the worklist uses it (section K.2.2.2). Pure.

What the Standard leaves to us:
- Person names match literally, component groups one by one; trailing empty components say nothing. With `fold` case,
  accents and width make no difference, and a component that the key leaves empty matches any.
- A key of a name without `=` matches any of the component groups.
- Several values in a key match if one of them does, whatever its VR; the Standard says it of UIDs only.
- The upper end of a range reaches to the end of what it names: `-1800` has 18:00:30.
- `*` and `?` are no wild cards in a date, time, UID or number (section C.2.2.2.4), and modalities send them all the
  same: a lone `*` asks for everything, and in dates and times both are taken for what is meant.
"""

import re
import unicodedata
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, Literal

Names = Literal["exact", "fold"]
#: Tells whether one of the values matches.
Test = Callable[[Sequence[str]], bool]

#: PS3.4 section C.2.2.2.4.
WILD: Final = frozenset({"AE", "CS", "LO", "LT", "PN", "SH", "ST", "UC", "UR", "UT"})
TIMES: Final = frozenset({"DA", "TM", "DT"})
_LENGTHS: Final = {"DA": 8, "TM": 12, "DT": 20}
_NUMERIC: Final = frozenset({"IS", "DS"})
#: Letters that Unicode does not take apart.
_LETTERS: Final = str.maketrans(
    {"ø": "o", "ł": "l", "đ": "d", "ħ": "h", "ŧ": "t", "\u0131": "i", "æ": "ae", "œ": "oe", "þ": "th", "ð": "d"}
)
#: Voiced sound marks: parts of a kana, no accents.
_VOICED: Final = frozenset("\u3099\u309a")


@dataclass(frozen=True)
class Span:
    """A range of digits, both ends included; an empty end is open."""

    low: str
    high: str

    def holds(self, digits: str) -> bool:
        """Tell whether digits of full length lie in it."""
        return bool(digits) and (not self.low or self.low <= digits) and (not self.high or digits <= self.high)


def is_universal(vr: str, wanted: Sequence[str]) -> bool:
    """Tell whether a key matches everything: without a value, or a lone `*`; PS3.4 sections C.2.2.2.3 and C.2.2.2.4."""
    if vr == "PN":
        return not wanted or any(not each.strip("*^= ") for each in wanted)
    if vr in TIMES:
        return not wanted or any(each.strip("* ") in ("", "-") for each in wanted)
    return not wanted or any(not each.strip("*") for each in wanted)


def matcher(vr: str, wanted: Sequence[str], names: Names) -> Test:
    """Give what tells whether values match a key that is not universal. What has no value matches nothing."""
    if vr == "PN":
        tests = [_name(each, names) for each in wanted]
        return lambda values: any(test(value) for value in values if value for test in tests)
    if vr in TIMES and any(map(is_wild, wanted)):
        patterns = [Pattern(_plain(each)) for each in wanted]
        return lambda values: any(each.matches(_plain(value)) for value in values if value for each in patterns)
    if vr in TIMES:
        spans = [span(vr, each) for each in wanted]
        return lambda values: any(each.holds(digits(vr, value)) for value in values if value for each in spans)
    if vr in WILD and any(map(is_wild, wanted)):
        patterns = [Pattern(each) for each in wanted]
        return lambda values: any(each.matches(value) for value in values if value for each in patterns)
    if vr in _NUMERIC:
        numbers = {_number(each) for each in wanted}
        return lambda values: any(_number(value) in numbers for value in values if value)
    exact = frozenset(wanted)
    return lambda values: any(value in exact for value in values if value)


def span(vr: str, wanted: str) -> Span:
    """Read a date or time, or a range of them; PS3.4 section C.2.2.2.5."""
    length = _LENGTHS[vr]
    low, dash, high = wanted.partition("-")
    if not dash:
        only = digits(vr, wanted)
        return Span(only, only)
    low, high = _plain(low), _plain(high)
    return Span(low.ljust(length, "0") if low else "", high.ljust(length, "9") if high else "")


def is_range(wanted: Sequence[str]) -> bool:
    """Tell whether a key is one range."""
    return len(wanted) == 1 and "-" in wanted[0] and not is_wild(wanted[0])


def is_wild(wanted: str) -> bool:
    """Tell whether a value has a wild card."""
    return "*" in wanted or "?" in wanted


def combined(dates: str, times: str) -> Span:
    """Read a range of dates and one of times as one span of moments, PS3.4 table K.6-1 under (0040,0003).

    Where one has no end, the day's is meant; without a date there is no end at all.
    """
    date, time = span("DA", dates), span("TM", times)
    return Span(
        date.low + (time.low or "0" * _LENGTHS["TM"]) if date.low else "",
        date.high + (time.high or "9" * _LENGTHS["TM"]) if date.high else "",
    )


def digits(vr: str, value: str) -> str:
    """Give a date or time as digits of full length: `0830` is 083000.000000."""
    return _plain(value).ljust(_LENGTHS[vr], "0")


def _plain(value: str) -> str:
    # Dots and colons as ACR-NEMA wrote them, PS3.5 table 6.2-1.
    return value.translate(_NO_MARKS)


_NO_MARKS: Final = str.maketrans("", "", ".: \0")


def _number(value: str) -> float | str:
    try:
        return float(value)
    except ValueError:
        return value


class Pattern:
    """A key with `*` and `?`, matched in time that grows with the lengths and never explodes."""

    def __init__(self, wanted: str) -> None:
        first, *rest = [
            re.compile("".join("." if each == "?" else re.escape(each) for each in part), re.DOTALL)
            for part in wanted.split("*")
        ]
        self._first = first
        self._middle = rest[:-1]
        self._last = rest[-1] if rest else None
        self._last_length = len(wanted.rpartition("*")[2])

    def matches(self, value: str) -> bool:
        """Tell whether the whole value matches."""
        found = self._first.match(value)
        if found is None:
            return False
        at = found.end()
        if self._last is None:
            return at == len(value)
        for part in self._middle:
            found = part.search(value, at)
            if found is None:
                return False
            at = found.end()
        start = len(value) - self._last_length
        return start >= at and self._last.match(value, start) is not None


@lru_cache(maxsize=65536)
def fold(text: str) -> str:
    """Take case, accents and width from a text."""
    apart = unicodedata.normalize("NFKD", text)
    bare = "".join(each for each in apart if each in _VOICED or not unicodedata.combining(each))
    return unicodedata.normalize("NFC", bare).casefold().translate(_LETTERS)


def _groups(name: str, names: Names) -> list[str]:
    folded = fold(name) if names == "fold" else name
    return [_components(group) for group in folded.split("=")]


def _components(group: str) -> str:
    return "^".join(each.strip() for each in group.split("^")).rstrip("^ ")


def _name(wanted: str, names: Names) -> Callable[[str], bool]:
    """Give what tells whether a person name matches, PS3.4 section C.2.2.2.1.1."""
    asked = [_group(group, names) if group else None for group in _groups(wanted, names)]
    if len(asked) == 1:
        (only,) = asked
        return lambda value: only is None or any(only(group) for group in _groups(value, names) if group)

    def matches(value: str) -> bool:
        had = _groups(value, names)
        return all(
            test is None or (place < len(had) and bool(had[place]) and test(had[place]))
            for place, test in enumerate(asked)
        )

    return matches


def _group(wanted: str, names: Names) -> Callable[[str], bool]:
    whole = Pattern(wanted)
    if names == "exact":
        return whole.matches
    parts = [Pattern(each) if each else None for each in wanted.split("^")]

    def matches(value: str) -> bool:
        if whole.matches(value):
            return True
        had = value.split("^")
        return all(
            part is None or part.matches(had[place] if place < len(had) else "") for place, part in enumerate(parts)
        )

    return matches
