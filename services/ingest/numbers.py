"""Instance numbers (0020,0013) of a series as ranges, and what their gaps say. The same whatever the order.

A series has numbers that follow one another where its vendor counts through it. Many do not: numbers start anywhere,
count on from the series before, begin again with each acquisition, or go by twos where two series share them.
"""

import itertools
from collections.abc import Iterable
from typing import Final

#: Sorted ranges, both ends included, never touching. None: the numbers of this series are of no use.
Ranges = tuple[tuple[int, int], ...]
#: A row of the index is written again with each batch: what has more holes than this is not counted through.
_MOST: Final = 10_000
#: From so many ranges on, a pattern can be told from a loss.
_PATTERN: Final = 3


def ranges_of(numbers: Iterable[int]) -> Ranges | None:
    """Give the ranges of a batch's numbers; None if one repeats."""
    return _coalesced([(number, number) for number in numbers])


def join(one: Ranges | None, other: Ranges | None) -> Ranges | None:
    """Put the numbers of two sets of instances together; None if one is of no use, or a number is in both."""
    if one is None or other is None:
        return None
    if not one or not other:
        return one or other
    return _coalesced([*one, *other])


def missing(ranges: Ranges | None) -> int:
    """Count the numbers between the lowest and the highest that no instance has; 0 where that says nothing.

    It says nothing where the numbers go by a pattern, or where there are more holes than instances. What may be missing
    before the lowest or after the highest number can't be seen.
    """
    if not ranges or len(ranges) == 1:
        return 0
    present = sum(last - first + 1 for first, last in ranges)
    holes = ranges[-1][1] - ranges[0][0] + 1 - present
    return 0 if holes > present or _regular(ranges) else holes


def _regular(ranges: Ranges) -> bool:
    """Tell whether runs and holes repeat: every second number, two of three; the last run may have been cut short."""
    if len(ranges) < _PATTERN:
        return False
    steps = {after[0] - before[0] for before, after in itertools.pairwise(ranges)}
    runs = {last - first for first, last in ranges[:-1]}
    return len(steps) == 1 and len(runs) == 1 and ranges[-1][1] - ranges[-1][0] <= min(runs)


def _coalesced(ranges: list[tuple[int, int]]) -> Ranges | None:
    joined: list[tuple[int, int]] = []
    for first, last in sorted(ranges):
        if joined and first <= joined[-1][1]:
            return None
        if joined and first == joined[-1][1] + 1:
            joined[-1] = (joined[-1][0], last)
        else:
            joined.append((first, last))
    return None if len(joined) > _MOST else tuple(joined)
