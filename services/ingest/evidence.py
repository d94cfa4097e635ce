"""When a study is taken to be complete: signs for and against, how long to wait, and how sure it is.

`docs/assembly.md` has the same as tables. What no sign decides is asked before: an association of the study that is
open, or an acknowledged object that is not indexed, and there is nothing to decide yet.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Final, Literal

from contracts.definition import Assembly
from contracts.study import Sign
from services.ingest.assembly import SECONDARY_MODALITIES
from services.ingest.numbers import missing
from services.ingest.performed import NOTHING, Performed
from services.ingest.tally import Tally

Kind = Literal["association-ended", "quiet", "numbers", "announced", "waited", "ordered", "performed"]


@dataclass(frozen=True)
class Weight:
    """How much a sign counts.

    Attributes
    ----------
    score
        What it adds to the score.
    wait
        What the quiet time is multiplied with; of several that make it longer, the one that does most.
    """

    score: float
    wait: float = 1.0


ENDED: Final = Weight(0.3)
BROKEN: Final = Weight(-0.2, 3.0)
QUIET: Final = Weight(0.4)
BUSY: Final = Weight(-0.1)
NO_GAPS: Final = Weight(0.2)
GAPS: Final = Weight(-0.3, 2.0)
MET: Final = Weight(0.3, 0.25)
NOT_MET: Final = Weight(-0.4, 4.0)
MADE: Final = Weight(0.3, 0.25)
NOT_ALL_MADE: Final = Weight(-0.4, 4.0)
GOING_ON: Final = Weight(-0.3, 4.0)
WAITED: Final = Weight(0.0)
#: How many series a sentence gives figures for.
_NAMED: Final = 3


@dataclass(frozen=True)
class Patience:
    """How long to wait, by the network definition.

    Attributes
    ----------
    quiet
        Time without arrivals where the modality says nothing else.
    by_modality
        The same for modalities of their own; the longest of a study's counts.
    at_most
        Time from the first arrival of what no version has yet, after which no sign is waited for.
    """

    quiet: timedelta
    by_modality: Mapping[str, timedelta] = field(default_factory=dict)
    at_most: timedelta = timedelta(days=1)

    def wanted(self, modalities: Iterable[str]) -> timedelta:
        """Give the quiet time that a study of these modalities needs."""
        return max((self.by_modality[each] for each in modalities if each in self.by_modality), default=self.quiet)

    def first_look(
        self, modalities: Iterable[str], *, count: int, announced: int | None, performed: int | None = None
    ) -> timedelta:
        """Say how long after an arrival a study may be complete at the earliest; `decide` has the last word then.

        Parameters
        ----------
        count
            Instances that are there.
        announced, performed
            How many it was said to have, and modalities say they made (MPPS); None if nothing is known.
        """
        met = announced == count or (performed is not None and 0 < performed <= count)
        quiet = self.wanted(modalities) * (MET.wait if met else 1)
        return min(quiet, self.at_most)

    @property
    def soonest(self) -> timedelta:
        """The shortest time after an arrival at which any study may be complete."""
        return min(min((self.quiet, *self.by_modality.values())) * MET.wait, self.at_most)

    @property
    def longest(self) -> timedelta:
        """The longest time that any study waits after an arrival."""
        return min(max((self.quiet, *self.by_modality.values())) * NOT_MET.wait, self.at_most)


def patience(assembly: Assembly, quiet: timedelta) -> Patience:
    """Read the definition; `quiet` is what holds where it says nothing."""
    return Patience(
        quiet=quiet if assembly.quiet is None else timedelta(seconds=assembly.quiet),
        by_modality={each: timedelta(seconds=seconds) for each, seconds in assembly.modalities.items()},
        at_most=timedelta(seconds=assembly.at_most),
    )


@dataclass(frozen=True)
class Known:
    """What is known of a study when it is looked at.

    Attributes
    ----------
    last_arrival
        When something of it, or the same again, arrived last.
    pending_since
        When the first instance that no version has arrived; None if that is not known.
    listening_since
        When this process began to listen: before, the silence says nothing.
    broken_at
        When an association that had sent some of it ended without a release; None if none did.
    announced
        Number of instances that it was said to have.
    series
        Tally of each series.
    performed
        What modalities report of it (MPPS).
    """

    last_arrival: datetime
    pending_since: datetime | None
    listening_since: datetime
    broken_at: datetime | None
    announced: int | None
    series: Sequence[Tally]
    performed: Performed = NOTHING

    @property
    def count(self) -> int:
        """Number of instances."""
        return sum(each.count for each in self.series)

    @property
    def modalities(self) -> set[str]:
        """Modalities of its series."""
        return {each.modality for each in self.series if each.modality}


@dataclass(frozen=True)
class Decision:
    """What follows.

    Attributes
    ----------
    until
        When to look again; None: complete now.
    signs
        What was found.
    """

    until: datetime | None
    signs: tuple[Sign, ...]

    @property
    def score(self) -> float:
        """How sure it is, from 0 to 1."""
        return round(min(1.0, max(0.0, sum(each.weight for each in self.signs))), 2)

    @property
    def against(self) -> list[Sign]:
        """The signs that speak against."""
        return [each for each in self.signs if each.weight < 0]


def decide(known: Known, patience: Patience, now: datetime) -> Decision:
    """Weigh what is known: complete now, or wait until when. The longest wait is `patience.at_most`."""
    found = [*_association(known), *_numbers(known), *_announced(known), *_performed(known)]
    factors = [weight.wait for _, weight, _ in found]
    factor = max(factors) if max(factors) > 1 else min(factors)
    needed = patience.wanted(known.modalities) * factor
    silent = now - _latest(known.last_arrival, known.listening_since, now=now)
    waited = timedelta(0) if known.pending_since is None else now - known.pending_since
    # An arrival in the future: the clock was put back. That the study has fallen due is all that can be known.
    quiet = silent >= needed or known.last_arrival > now
    late = waited >= patience.at_most
    if quiet:
        found.insert(1, ("quiet", QUIET, f"no arrival for {_seconds(needed)}"))
    elif late:
        found.insert(1, ("quiet", BUSY, f"silent for {_seconds(silent)} only, {_seconds(needed)} were wanted"))
        found.append(("waited", WAITED, f"waited for {_seconds(patience.at_most)}, which is as long as at-most allows"))
    signs = tuple(Sign(kind=kind, weight=weight.score, detail=detail) for kind, weight, detail in found)
    if quiet or late:
        return Decision(None, signs)
    return Decision(now + min(needed - silent, patience.at_most - waited), signs)


_Found = tuple[Kind, Weight, str]


def _latest(*times: datetime, now: datetime) -> datetime:
    return max((each for each in times if each <= now), default=now)


def _association(known: Known) -> list[_Found]:
    # What came after it, came because the sender has tried again.
    if known.broken_at is not None and known.broken_at >= known.last_arrival:
        return [
            ("association-ended", BROKEN, "the association that sent last was broken off: its sender may try again")
        ]
    return [("association-ended", ENDED, "no association is sending it")]


def _numbers(known: Known) -> list[_Found]:
    counted = [each.numbers for each in known.series if _is_counted(each)]
    holes = [missing(each) for each in counted]
    gaps = sum(holes)
    if gaps:
        where = f"in {sum(1 for each in holes if each)} of {len(known.series)} series"
        return [("numbers", GAPS, f"{_many(gaps, 'instance number')} missing between others, {where}")]
    if any(numbers and len(numbers) == 1 and numbers[0][0] < numbers[0][1] for numbers in counted):
        return [("numbers", NO_GAPS, "instance numbers without gaps")]
    return []


def _is_counted(series: Tally) -> bool:
    return series.modality not in SECONDARY_MODALITIES


def _announced(known: Known) -> list[_Found]:
    short = [each for each in known.series if each.announced is not None and each.count < each.announced]
    if known.announced is not None and known.count < known.announced:
        return [("announced", NOT_MET, f"{known.count} of {_many(known.announced, 'instance')} that were announced")]
    if short:
        parts = ", ".join(f"{each.count} of {each.announced}" for each in short[:_NAMED])
        return [("announced", NOT_MET, f"{len(short)} series with fewer instances than were announced: {parts}")]
    if known.announced == known.count:
        return [("announced", MET, f"all {_many(known.count, 'instance')} that were announced")]
    return []


def _performed(known: Known) -> list[_Found]:
    said = known.performed
    found: list[_Found] = []
    if said.running:
        found.append(("performed", GOING_ON, f"a modality is still at {_many(said.running, 'procedure step')} of it"))
    made = _many(said.instances, "instance")
    if said.missing:
        there = said.instances - said.missing
        found.append(("performed", NOT_ALL_MADE, f"{there} of {made} that its modality says it made"))
    elif said.instances:
        found.append(("performed", MADE, f"all {made} that its modality says it made"))
    return found


def _many(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _seconds(time: timedelta) -> str:
    return f"{time.total_seconds():g} s"
