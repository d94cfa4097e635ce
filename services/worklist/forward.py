"""Passing performed procedure steps on: what an answer means, and when to try again. Pure.

Each step goes to a node in the order in which its modality spoke: the N-CREATE, then each N-SET. What was answered and
not noted, because a process or a line died, is sent once more: the peer says then that it has it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final, Literal

from services.worklist import step

#: taken: the next one; again: later; anew: from the N-CREATE on, later; refused: people must look.
Verdict = Literal["taken", "again", "anew", "refused"]
#: Warnings of PS3.7 annex C: it is done all the same.
_WARNINGS: Final = frozenset({0x0001, step.ATTRIBUTE_LIST_ERROR, 0x0116})
_WARNING_CLASS: Final = range(0xB000, 0xC000)
#: What another try does not change: it is about what was said, or about what the peer can do.
_FINAL: Final = frozenset(
    {
        *(step.NO_SUCH_ATTRIBUTE, step.INVALID_ATTRIBUTE_VALUE, step.INVALID_OBJECT_INSTANCE),
        *(step.CLASS_INSTANCE_CONFLICT, step.MISSING_ATTRIBUTE, step.MISSING_ATTRIBUTE_VALUE),
        *(0x0115, 0x0118, 0x0122, 0x0124, 0x0211, 0x0212),
    }
)
_MOST_DOUBLINGS: Final = 16


def judge(status: int, error_id: int, *, create: bool) -> Verdict:
    """Say what the answer of a peer means, PS3.4 sections F.7.2.1.4 and F.7.2.2.4.

    Parameters
    ----------
    status, error_id
        Of the response; 0 if it has no error identifier.
    create
        Whether it answers an N-CREATE, else an N-SET.
    """
    if status == step.SUCCESS or status in _WARNINGS or status in _WARNING_CLASS:
        return "taken"
    if create and status == step.DUPLICATE_SOP_INSTANCE:
        return "taken"
    if not create and status == step.PROCESSING_FAILURE and error_id == step.NO_LONGER_UPDATED:
        # It has the final state: from us, or set by itself, PS3.4 section F.7.2.2.3 note 2.
        return "taken"
    if not create and status == step.NO_SUCH_SOP_INSTANCE:
        return "anew"
    return "refused" if status in _FINAL else "again"


@dataclass(frozen=True)
class Backoff:
    """Waits that double from `first` up to `cap` (seconds), each shortened by chance by up to a half."""

    first: float
    cap: float

    def after(self, failures: int, now: datetime, random: Callable[[], float]) -> datetime:
        """Give the time of the next attempt after so many failures in a row, from 1."""
        wait = min(self.cap, self.first * 2.0 ** min(max(failures, 1) - 1, _MOST_DOUBLINGS))
        return now + timedelta(seconds=wait * (0.5 + random() / 2))
