"""Whether the copy of a study may go, and if not, what holds it. Pure.

A copy goes only when everything of its last version is where it was to go, or was discarded by a rule or a person, and
its keep time is over: every doubt keeps it. See docs/retention.md.
"""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Literal

from contracts.definition import Retention

HoldKind = Literal[
    "receiving",  # instances are in hand, or no version has them yet
    "undecided",  # rules have not said where the last version goes
    "nowhere",  # no rule wanted it: nobody else has it
    "undelivered",  # a destination does not have what it was to get
    "flagged",  # a person should look at it
    "quarantined",  # something that belongs to it waits for a person
    "unlimited",  # no entry of the definition's `retention` is for all of its modalities
]


@dataclass(frozen=True)
class Delivered:
    """What a destination was to get of a study, and what it has: versions, 0 for none.

    Attributes
    ----------
    waived, instead
        Last version that need not go there any more: that destination has it instead, or, if there is none, a person
        cancelled it.
    """

    destination: str
    wanted: int
    done: int
    waived: int = 0
    instead: str | None = None

    @property
    def settled(self) -> int:
        """Last version of which nothing has to go there any more."""
        return max(self.done, self.waived)


@dataclass(frozen=True)
class Copy:
    """What is known of a study whose copy is kept.

    Attributes
    ----------
    version, decided
        Last version, and the last that rules have decided on; 0 for none.
    settled
        Whether the last version has all that arrived, and nothing is in hand.
    modalities
        Of all its series; empty if no series says one.
    last_arrival
        When something of it arrived last, duplicates included, UTC.
    deliveries
        Where its versions were to go.
    flags, quarantined
        How many flags nobody has cleared; how many entries of the quarantine concern it and are open.
    discarded
        Why rules or people want all of the last version nowhere; none if they do not.
    """

    version: int
    decided: int
    settled: bool
    modalities: tuple[str, ...]
    last_arrival: datetime
    deliveries: tuple[Delivered, ...]
    flags: int
    quarantined: int
    discarded: str | None = None


@dataclass(frozen=True)
class Hold:
    """One reason to keep a copy whatever its keep time is."""

    kind: HoldKind
    detail: str


@dataclass(frozen=True)
class Verdict:
    """What is to become of a copy.

    Attributes
    ----------
    keep
        Its keep time, seconds; None without an end.
    until
        When that is over, UTC.
    holds
        What keeps it besides.
    destinations
        Those that have its last version.
    """

    keep: int | None
    until: datetime | None
    holds: tuple[Hold, ...]
    destinations: tuple[str, ...]

    def may_go(self, now: datetime) -> bool:
        """Tell whether nothing holds the copy and its keep time is over."""
        return not self.holds and self.until is not None and self.until <= now


def keep_time(retention: Sequence[Retention], modalities: Collection[str]) -> int | None:
    """Give the keep time of a study in seconds; None without an end.

    For each modality the first entry counts that names it, or names none; of several modalities the longest. If no
    entry is for one of them, the study is kept.
    """
    times = [_first(retention, modality) for modality in modalities or ("",)]
    known = [each for each in times if each is not None]
    return max(known) if len(known) == len(times) else None


def _first(retention: Sequence[Retention], modality: str) -> int | None:
    return next((each.keep for each in retention if not each.modality or modality in each.modality), None)


def judge(copy: Copy, retention: Sequence[Retention]) -> Verdict:
    """Say what is to become of a copy."""
    keep = keep_time(retention, copy.modalities)
    holds = tuple(_holds(copy))
    until = None
    if keep is None:
        holds = (*holds, Hold("unlimited", "no entry of `retention` is for all of its modalities: it is kept for ever"))
    else:
        try:
            until = copy.last_arrival + timedelta(seconds=keep)
        except OverflowError:
            holds = (*holds, Hold("unlimited", "its keep time ends after the year 9999"))
    return Verdict(keep, until, holds, _having(copy))


def _holds(copy: Copy) -> Iterable[Hold]:
    if copy.version == 0 or not copy.settled:
        yield Hold("receiving", "instances arrive, or no version has them yet")
        return
    if copy.decided != copy.version:
        yield Hold("undecided", f"rules have not said where version {copy.version} goes")
    missing = sorted(each.destination for each in copy.deliveries if each.settled < each.wanted)
    if missing:
        yield Hold("undelivered", f"not delivered in full yet: {', '.join(missing)}")
    elif copy.decided == copy.version and not _having(copy) and copy.discarded is None:
        yield Hold("nowhere", "it went nowhere, by the rules or because people cancelled it: this is the only copy")
    if copy.flags:
        yield Hold("flagged", "people should look at it: see its flags, and clear them")
    if copy.quarantined:
        yield Hold("quarantined", "the quarantine has something of it that waits for a decision")


def _having(copy: Copy) -> tuple[str, ...]:
    last = [each for each in copy.deliveries if each.wanted == copy.version]
    there = {each.destination for each in last if each.done >= each.wanted}
    instead = {each.instead for each in last if each.waived >= each.wanted and each.instead is not None}
    return tuple(sorted(there | instead))
