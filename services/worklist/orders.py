"""Orders and patients: what arrives is kept, folded and told in one transaction, and answered after its commit."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from services.worklist.change import Change


@dataclass(frozen=True)
class Received:
    """One message, or one act of a person.

    Attributes
    ----------
    source
        Key of the node that sent it, or `hand:` and who did it.
    control_id
        MSH-10, or an identifier of its own.
    raw
        The message as it came.
    received_at
        When it came, in UTC.
    changes
        What it says, in its order.
    warnings
        What could not be taken over as it stands, one sentence each, without personal data.
    """

    source: str
    control_id: str
    raw: bytes
    received_at: datetime
    changes: tuple[Change, ...]
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True)
class Outcome:
    """What became of a change.

    Attributes
    ----------
    result
        applied; repeated: known before; older: kept, but newer ones say otherwise already; refused.
    reason
        Why it was refused, for people; empty otherwise.
    order_id
        The order that it is about, if it is about one.
    """

    result: Literal["applied", "repeated", "older", "refused"]
    reason: str = ""
    order_id: int | None = None


@dataclass(frozen=True)
class Taken:
    """What became of a received message: one outcome a change, in their order."""

    outcomes: tuple[Outcome, ...]
