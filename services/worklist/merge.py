"""Which patients may be merged, and whose everything is then. Pure."""

from collections.abc import Hashable, Mapping
from typing import TypeVar

#: What names a patient: a merged one is mapped to the one that it was merged into.
T = TypeVar("T", bound=Hashable)


def root(patient: T, forward: Mapping[T, T]) -> T:
    """Give the patient that is kept in the end."""
    while patient in forward:
        patient = forward[patient]
    return patient


def family(patient: T, forward: Mapping[T, T]) -> set[T]:
    """Give all that are the same patient, the one that is kept included."""
    kept = root(patient, forward)
    return {kept, *(one for one in forward if root(one, forward) == kept)}


def objection(kept: T, merged: T, forward: Mapping[T, T]) -> str | None:
    """Say why two patients can't be merged, in words without personal data; none if they can be, or are already.

    What was taken before stands: whichever of two merges that contradict each other comes second is refused.
    """
    if kept == merged:
        return "it names the same patient identifier twice: nothing can be merged into itself"
    if forward.get(merged) == kept:
        return None
    if root(kept, forward) == merged:
        return (
            "the identifier that it keeps was merged into the one that it gives up: this merge is the inverse of an "
            "earlier one; undo that first with `kivuko worklist unmerge`"
        )
    if merged in forward:
        return (
            "the identifier that it gives up was merged into another one before: merge that one instead, or undo the "
            "earlier merge with `kivuko worklist unmerge`"
        )
    return None
