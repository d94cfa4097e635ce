"""A delivery: how requests merge into it, and which state follows from what its items say."""

import hashlib
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from contracts.routing import PRIORITIES, Priority
from services.egress.hold import Hold, longest

State = Literal["open", "waiting", "done", "failed", "held", "cancelled", "diverted"]


def delivery_id(tenant: str, study_instance_uid: str, destination: str) -> str:
    """Derive the identifier of a delivery from its business key: the same request gives the same delivery for ever."""
    key = f"{tenant}\n{study_instance_uid}\n{destination}"
    return hashlib.sha256(key.encode()).hexdigest()[:32]


def lane(priority: Priority) -> int:
    """Give the number of a lane: 0 is the most urgent."""
    return PRIORITIES.index(priority)


@dataclass(frozen=True)
class Closing:
    """The version of the study that is asked for, and which instances of it. The highest version wins.

    Attributes
    ----------
    study_version, expected_count
        The version, and how many of its instances go to the destination.
    expected_hash
        Hash of the set of these instances, see `contracts.manifest.set_hash`; none from a release that gave none.
    """

    study_version: int
    expected_count: int
    expected_hash: str | None = None


@dataclass(frozen=True)
class Request:
    """What the requests so far say of a delivery, besides its items. Merging is commutative, associative, idempotent.

    Attributes
    ----------
    lane
        Number of the most urgent lane that was asked for.
    first
        Time of the earliest request (UTC, ISO 8601) and the source node that it named.
    network_version
        Highest version of the network definition that decided.
    closing
        None as long as no request closed the delivery.
    hold
        That of the requests for the most urgent lane; of these the longest.
    """

    lane: int
    first: tuple[datetime, str]
    network_version: int
    closing: Closing | None = None
    hold: Hold | None = None

    def merged(self, other: "Request") -> "Request":
        """Merge with another request for the same delivery."""
        closings = [request.closing for request in (self, other) if request.closing is not None]
        return Request(
            lane=min(self.lane, other.lane),
            first=min(self.first, other.first),
            network_version=max(self.network_version, other.network_version),
            closing=max(closings, key=_rank, default=None),
            hold=longest(self.hold, other.hold) if self.lane == other.lane else min(self, other, key=_lane).hold,
        )


def _lane(request: Request) -> int:
    return request.lane


def _rank(closing: Closing) -> tuple[int, int, str]:
    return closing.study_version, closing.expected_count, closing.expected_hash or ""


@dataclass(frozen=True)
class Tally:
    """What the items of a delivery say.

    Attributes
    ----------
    instances
        Distinct SOP Instance UIDs.
    due
        Pending items.
    next_attempt_at
        When the first of those is due, UTC; none if there is none.
    blocked
        Those of them that a rule's transform must change first.
    sent, failed
        Items answered with success or warning; items refused for good.
    bytes_sent
        Bytes of the sent items.
    committed, found
        Sent items that the destination committed itself to; those that it was seen to have, these included.
    """

    instances: int = 0
    due: int = 0
    next_attempt_at: datetime | None = None
    blocked: int = 0
    sent: int = 0
    failed: int = 0
    bytes_sent: int = 0
    committed: int = 0
    found: int = 0


@dataclass(frozen=True)
class Order:
    """What a person ordered: nothing more of a delivery goes (`held`, `cancelled`), or nothing to a destination.

    Attributes
    ----------
    kind
        A cancelled delivery is not wanted any more. A held one waits for a person, a paused one for its destination.
    by, at, why
        Who, when (UTC), and the reason, if one was given.
    """

    kind: Literal["held", "cancelled", "paused"]
    by: str
    at: datetime
    why: str | None = None

    @property
    def reason(self) -> str:
        """Say it as a sentence."""
        what = "its destination is paused" if self.kind == "paused" else self.kind
        said = f"{what} by {self.by} since {self.at:%Y-%m-%d %H:%M} UTC"
        return f"{said}: {self.why}" if self.why else said


@dataclass(frozen=True)
class Diversion:
    """That a delivery goes to another destination instead.

    Attributes
    ----------
    to, at
        That destination, and since when, UTC.
    by
        Who ordered it; none: its own destination was out of reach.
    why
        The reason, if one was given; or what was in the way.
    """

    to: str
    at: datetime
    by: str | None = None
    why: str | None = None

    @property
    def reason(self) -> str:
        """Say it as a sentence."""
        by = "" if self.by is None else f" by {self.by}"
        said = f"sent to {self.to} instead{by} since {self.at:%Y-%m-%d %H:%M} UTC"
        return f"{said}: {self.why}" if self.why else said


def asks_again(before: Closing | None, after: Closing | None) -> bool:
    """Tell whether a later version of the study asks for a delivery than the one that was asked for before.

    What was asked for before the study was complete is its first version.
    """
    return after is not None and after.study_version > (1 if before is None else before.study_version)


@dataclass(frozen=True)
class Standing:
    """State of a delivery and, where it does not go on by itself, why; and whether only a confirmation is missing."""

    state: State
    reason: str | None = None
    unconfirmed: bool = False


def answered(tally: Tally, closing: Closing | None) -> bool:
    """Tell whether nothing is left to send, and as many instances were sent as the version has."""
    unsent = tally.due or tally.failed
    return not unsent and closing is not None and 0 < tally.instances == closing.expected_count


def standing(
    tally: Tally,
    closing: Closing | None,
    now: datetime,
    *,
    obstacle: str | None,
    unconfirmed: str | None,
    set_hash: str | None = None,
    order: Order | None = None,
    diverted: Diversion | None = None,
    given_up: str | None = None,
    hold: Hold | None = None,
) -> Standing:
    """Decide the state of a delivery.

    Parameters
    ----------
    tally
        What its items say.
    closing
        Version and count that close it, if any.
    now
        Time, UTC.
    obstacle
        Why nothing may be sent to the destination at present.
    unconfirmed
        Why success for every instance does not yet count as delivered at this destination.
    set_hash
        Hash of the set of instances, where all of them are `answered`. If it differs from what is expected, one of the
        version is missing and one that came later makes up the number.
    order
        What a person ordered. It comes before everything else: what is cancelled never is done.
    diverted
        Where it goes instead. What is diverted never is done, whatever arrives late.
    given_up
        Why it is not tried any more, as long as something of it is not sent.
    hold
        What a rule asks for, as long as it lasts. What is sent already stays so.
    """
    settled = _decided(order, diverted)
    if settled is not None:
        return settled
    if tally.due:
        kept_back = obstacle or (None if hold is None else hold.reason)
        return _unsent(tally, now, kept_back if order is None else order.reason, given_up)
    if tally.failed:
        return Standing("failed", "all that is left was refused for good: see its instances, then try again")
    if closing is None or not answered(tally, closing) or closing.expected_hash not in (None, set_hash):
        return Standing("open")
    return Standing("done") if unconfirmed is None else Standing("waiting", unconfirmed, unconfirmed=True)


def _decided(order: Order | None, diverted: Diversion | None) -> Standing | None:
    if order is not None and order.kind != "paused":
        return Standing(order.kind, order.reason)
    return None if diverted is None else Standing("diverted", diverted.reason)


def _unsent(tally: Tally, now: datetime, obstacle: str | None, given_up: str | None) -> Standing:
    if given_up is not None:
        return Standing("failed", given_up)
    if obstacle is not None:
        return Standing("held", obstacle)
    if tally.next_attempt_at is not None and tally.next_attempt_at > now:
        return Standing("waiting", "what is left was not taken; it is tried again: see its instances")
    return Standing("open")
