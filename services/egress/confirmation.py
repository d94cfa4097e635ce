"""When an instance counts as confirmed, what a destination's word about it means, and when it is asked again."""

from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Literal

from contracts.definition import Definition
from services.egress.backoff import Backoff
from services.egress.delivery import Tally

Confirm = Literal["store", "commit", "query"]

#: Failure Reason (0008,1197), PS3.3 section C.14.1.1.
PROCESSING_FAILURE: Final = 0x0110
NO_SUCH_INSTANCE: Final = 0x0112
CONFLICT: Final = 0x0119
CLASS_NOT_SUPPORTED: Final = 0x0122
DUPLICATE_TRANSACTION: Final = 0x0131
RESOURCE_LIMITATION: Final = 0x0213
#: Fixed word of an instance's status: it was sent, and does not show.
NOT_FOUND: Final = "not-found"
_SAID: Final = {
    PROCESSING_FAILURE: "it failed to process the request",
    NO_SUCH_INSTANCE: "it does not have it",
    CONFLICT: "it has it with another SOP class",
    CLASS_NOT_SUPPORTED: "it does not support its SOP class",
    DUPLICATE_TRANSACTION: "it takes our request for one that it had before",
    RESOURCE_LIMITATION: "it has no room for it",
}


class Next(StrEnum):
    """What becomes of an instance that a destination does not commit itself to."""

    SEND = "send"  # sent again, then asked for again; a few times, then people
    ASK = "ask"  # only asked for again: nothing is said of the instance
    FAIL = "fail"  # people at once: sending it again would change nothing


@dataclass(frozen=True)
class Miss:
    """A destination did not commit itself to an instance.

    Attributes
    ----------
    status
        Failure Reason (0008,1197) as four hexadecimal digits.
    reason
        Why, as a sentence.
    follows
        What becomes of it.
    """

    status: str
    reason: str
    follows: Next


def missed(failure_reason: int, misses: int, allowed: int) -> Miss:
    """Say what follows from a failure reason, where it is the `misses`th of the instance (from 1).

    A reason that the Standard does not give is for people: nobody knows whether sending again would help.
    """
    said = _SAID.get(failure_reason, "a reason that the Standard does not give")
    what = f"The destination said success for it and does not commit itself to it: {said}"
    match failure_reason:
        case 0x0110 | 0x0112 | 0x0213:
            follows = Next.SEND if misses < allowed else Next.FAIL
        case 0x0131:
            follows = Next.ASK
        case _:
            follows = Next.FAIL
    ending = {
        Next.SEND: "; it is sent again.",
        Next.ASK: "; it is asked again.",
        Next.FAIL: f", {misses} times." if misses > 1 else ".",
    }[follows]
    return Miss(f"{failure_reason:04X}", what + ending, follows)


def confirm_of(definition: Definition | None, key: str) -> Confirm:
    """Tell what counts as delivered at a destination."""
    destination = None if definition is None else definition.destinations.get(key)
    return "store" if destination is None else destination.confirm


def unconfirmed(
    confirm: Confirm, key: str, tally: Tally, *, done: bool, next_at: datetime | None, problem: str | None
) -> str | None:
    """Tell why success for every instance does not yet count as delivered, where the destination asks for more.

    Parameters
    ----------
    confirm, key
        Of the destination.
    tally
        What the items of the delivery say.
    done
        It was done before, with these instances: what the definition asks for later does not undo that.
    next_at
        When the destination is to be asked the next time; none if it was not asked yet.
    problem
        What was wrong with asking the last time.
    """
    if confirm == "store" or done:
        return None
    left = tally.sent - (tally.committed if confirm == "commit" else tally.found)
    if left <= 0:
        return None
    what = "has not committed itself to" if confirm == "commit" else "was not found to have"
    said = f"every instance was sent and answered with success; destination {key} {what} {left} of {tally.sent} yet"
    if problem is not None:
        said += f": {problem}"
    return said if next_at is None else f"{said}; asked again at {next_at:%Y-%m-%d %H:%M} UTC if nothing is heard"


@dataclass(frozen=True)
class Sighting:
    """What a destination says that it has of a study.

    Attributes
    ----------
    instances
        SOP Instance UIDs; none if it does not tell them.
    number
        How many it has, where that is all that it tells; none if it does not even tell that.
    """

    instances: frozenset[str] | None = None
    number: int | None = None


def missing(sent: AbstractSet[str], sighting: Sighting) -> AbstractSet[str] | None:
    """Name the instances that were sent and that the destination does not have; none if it does not tell.

    Where it tells only how many it has, fewer than were sent are as good as none, for nobody knows which; and of more
    than were sent, some are not ours, so that nothing follows.
    """
    if sighting.instances is not None:
        return sent - sighting.instances
    if sighting.number is None or sighting.number > len(sent):
        return None
    return frozenset() if sighting.number == len(sent) else sent


@dataclass(frozen=True)
class Patience:
    """How long a destination is given, in seconds: `first` after the first asking, then twice as long, up to `cap`."""

    first: float
    cap: float

    def again(self, asks: int, now: datetime) -> datetime:
        """Give the time to ask again after so many askings (from 1)."""
        return now + timedelta(seconds=Backoff(self.first, self.cap).ceiling(asks))

    def out_of_reach(self, now: datetime) -> datetime:
        """Give a time further ahead than anything waits: what waits longer was written before the clock went back."""
        return now + timedelta(seconds=self.cap) + timedelta(minutes=1)
