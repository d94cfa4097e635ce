"""What an answer, or the lack of one, means for an instance and for its destination."""

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Literal

from services.egress.backoff import Backoff, Random

ItemState = Literal["pending", "sent", "failed"]


class Verdict(StrEnum):
    """What becomes of an instance."""

    SENT = "sent"
    WARNING = "warning"  # stored, and the receiver remarked something: sent, with the status kept
    LATER = "later"  # the receiver or the line can't now: tried again for ever
    REFUSED = "refused"  # the receiver doesn't want this instance: a few attempts, then people
    UNFIT = "unfit"  # it can't be changed as the definition demands: people at once, never sent
    DAMAGED = "damaged"  # what we hold is not what arrived: people at once, never sent


#: The receiver has it.
ARRIVED = (Verdict.SENT, Verdict.WARNING)

#: Fixed words of `InstanceFailure.status` where there is no DICOM status.
NO_CONTEXT = "no-context"
NO_ANSWER = "no-answer"
UNSENDABLE = "unsendable"
OBJECT_DAMAGED = "object-damaged"
TRANSFORM = "transform"
NO_SECRET = "no-secret"  # noqa: S105 (a word, no secret)
NO_ROOM = "no-room"
NO_TURN = "no-turn"

SUCCESS = 0x0000
#: PS3.4 table B.2-1.
_WARNINGS = {
    0xB000: "the receiver changed data elements",
    0xB006: "the receiver discarded data elements",
    0xB007: "the dataset does not match its SOP class",
}
#: High byte of a family of failures, PS3.4 table B.2-1.
_OUT_OF_RESOURCES = 0xA7
_DATASET_MISMATCH = 0xA9
_CANNOT_UNDERSTAND = range(0xC0, 0xD0)
#: PS3.7 annex C and section 9.1.1.1.9.
_REFUSALS = {
    0x0110: "processing failure",
    0x0111: "duplicate SOP instance",
    0x0117: "invalid object instance",
    0x0122: "SOP class not supported",
    0x0124: "not authorised",
    0x0210: "duplicate invocation",
    0x0211: "unrecognised operation",
    0x0212: "mistyped argument",
}


@dataclass(frozen=True)
class Outcome:
    """What became of one instance in one association.

    Attributes
    ----------
    item
        Identifier of the delivery's item.
    verdict
        What becomes of it.
    status
        DICOM status as four hexadecimal digits, or a fixed word.
    reason
        Why, as a sentence without values from the dataset.
    """

    item: int
    verdict: Verdict
    status: str
    reason: str = ""


def of_status(item: int, status: int) -> Outcome:
    """Classify the status of a C-STORE response, PS3.4 table B.2-1 and PS3.7 annex C.

    A status that no table has counts as refused: only what the Standard calls success or warning is ever shown as sent.
    """
    word = f"{status:04X}"
    if status == SUCCESS:
        return Outcome(item, Verdict.SENT, word)
    if status in _WARNINGS:
        return Outcome(item, Verdict.WARNING, word, f"Stored with a warning: {_WARNINGS[status]}.")
    if status >> 8 == _OUT_OF_RESOURCES:
        return Outcome(item, Verdict.LATER, word, "The receiver is out of resources; it is tried again.")
    return Outcome(item, Verdict.REFUSED, word, f"The receiver refused the instance: {_refusal(status)}.")


def _refusal(status: int) -> str:
    if status in _REFUSALS:
        return _REFUSALS[status]
    if status >> 8 == _DATASET_MISMATCH:
        return "the dataset does not match its SOP class"
    if status >> 8 in _CANNOT_UNDERSTAND:
        return "it cannot understand it"
    return "a status that the Standard does not give for C-STORE"


@dataclass(frozen=True)
class Standing:
    """Where an item stands."""

    state: ItemState = "pending"
    attempts: int = 0
    refusals: int = 0
    next_attempt_at: datetime | None = None

    def after(
        self, verdict: Verdict, now: datetime, backoff: Backoff, random: Random, allowed_refusals: int
    ) -> "Standing":
        """Give the standing after an attempt.

        A refusal counts only towards refusals, so an instance that met a full disk a hundred times still has all its
        attempts when the disk has room again.
        """
        attempts = self.attempts + 1
        match verdict:
            case Verdict.SENT | Verdict.WARNING:
                return Standing("sent", attempts, self.refusals, None)
            case Verdict.DAMAGED | Verdict.UNFIT:
                return Standing("failed", attempts, self.refusals, None)
            case Verdict.LATER:
                return Standing("pending", attempts, self.refusals, backoff.after(attempts, now, random))
            case Verdict.REFUSED:
                refusals = self.refusals + 1
                if refusals >= allowed_refusals:
                    return Standing("failed", attempts, refusals, None)
                return Standing("pending", attempts, refusals, backoff.after(refusals, now, random))
