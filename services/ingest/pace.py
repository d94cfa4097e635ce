"""Back-pressure: answers are held back, a little at first, when more comes than is indexed."""

from collections.abc import Callable
from typing import Final

#: Longest that an answer is held back, seconds: senders wait for minutes, and even one association is slowed.
_LONGEST: Final = 1.0
#: Smallest difference that is worth a word.
_STEP: Final = 0.05


class Pace:
    """How long each answer is held back.

    Parameters
    ----------
    depth
        Counts what is not indexed.
    backlog
        How much of that is borne without a delay; twice as much makes the longest.

    Attributes
    ----------
    seconds
        As it was said last.
    """

    def __init__(self, depth: Callable[[], int], backlog: int) -> None:
        self._depth = depth
        self._backlog = backlog
        self.seconds = 0.0

    def changed(self) -> bool:
        """Look anew; tell whether there is something to say."""
        over = (self._depth() - self._backlog) / self._backlog
        steps = int(min(max(over, 0.0), 1.0) * _LONGEST / _STEP)
        before, self.seconds = self.seconds, round(steps * _STEP, 2)
        return self.seconds != before
