"""What modalities say that they made of a study (MPPS), against what is there. Pure."""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["in-progress", "completed", "discontinued"]


@dataclass(frozen=True)
class Step:
    """A performed procedure step of the study.

    Attributes
    ----------
    state
        Whether the modality is still at it.
    count
        How many instances it says it made of this study; None if it does not say.
    series
        The same by Series Instance UID; empty if it does not say.
    """

    state: State
    count: int | None = None
    series: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Performed:
    """What all steps of a study say.

    Attributes
    ----------
    running
        Steps that a modality is still at.
    instances
        Instances that the others say they made.
    missing
        How many of these are not there.
    """

    running: int = 0
    instances: int = 0
    missing: int = 0


NOTHING = Performed()


def performed(steps: Collection[Step], kept: Mapping[str, int]) -> Performed:
    """Compare what was said with what is there, each series by itself.

    What came without being named (a series made of others later) takes nobody's place, except of steps that do not say
    of which series they speak.

    Parameters
    ----------
    steps
        All of the study.
    kept
        Instances that are there, by Series Instance UID.
    """
    ended = [each for each in steps if each.state != "in-progress"]
    named = _sum(each.series for each in ended)
    missing = sum(max(0, count - kept.get(uid, 0)) for uid, count in named.items())
    unnamed = sum(each.count or 0 for each in ended if not each.series)
    left = sum(count for uid, count in kept.items() if uid not in named)
    return Performed(
        running=len(steps) - len(ended),
        instances=sum(named.values()) + unnamed,
        missing=missing + max(0, unnamed - left),
    )


def _sum(many: Iterable[Mapping[str, int]]) -> dict[str, int]:
    total: dict[str, int] = {}
    for each in many:
        for uid, count in each.items():
            total[uid] = total.get(uid, 0) + count
    return total
