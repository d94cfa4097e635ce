"""Whether a receipt holds: who signed it, whether it agrees with itself, and with copies of the instances."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from itertools import islice
from typing import Final, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from contracts.manifest import set_hash
from services.egress.receipt import Exported, NotAReceiptError, Receipt, ReceiptItem, signature_bytes

T = TypeVar("T")

#: Success, and the warnings with which an instance is stored: PS3.4 table B.2-1.
_STORED: Final = frozenset({"0000", "B000", "B006", "B007"})
_STATUS_DIGITS: Final = 4
#: Clocks of the machines that recorded the times may differ by so much.
_CLOCKS_DIFFER: Final = timedelta(minutes=1)
_TOLD: Final = 5


@dataclass(frozen=True)
class Finding:
    """Outcome of one check.

    Attributes
    ----------
    check
        What was checked, in a word.
    detail
        What was found, where it holds.
    problems
        What differs, a sentence each; empty where it holds.
    """

    check: str
    detail: str
    problems: tuple[str, ...] = ()

    @property
    def holds(self) -> bool:
        """Whether nothing differs."""
        return not self.problems


def verify(exported: Exported, keys: Mapping[str, Ed25519PublicKey]) -> list[Finding]:
    """Check all that can be checked without the instances.

    Parameters
    ----------
    exported
        The receipt.
    keys
        Public keys that are trusted, by their identifier.
    """
    return [_signature(exported, keys), *contents(exported.receipt), _times(exported.receipt)]


def contents(receipt: Receipt) -> list[Finding]:
    """Check that the items are the instances that were to be delivered, and that each of them was.

    Egress checks the same before it signs.
    """
    return [_set(receipt), _count(receipt), _outcomes(receipt)]


def copies(receipt: Receipt, found: Mapping[str, str], looked_at: str) -> Finding:
    """Compare with copies of the instances.

    Parameters
    ----------
    receipt
        The receipt.
    found
        SOP Instance UID, as the copy's file meta information says it, by the content hash of the copy.
    looked_at
        Where the copies were, for people.
    """
    uids = set(found.values())
    # What is kept, or what was made of it: a copy of either is one.
    missing = [
        item for item in receipt.items if not {item.content_hash, (item.sent_as or item).content_hash} & found.keys()
    ]

    def say(item: ReceiptItem) -> str:
        if not {item.sop_instance_uid, (item.sent_as or item).sop_instance_uid} & uids:
            return f"Instance {item.sop_instance_uid} is not in {looked_at}."
        why = " It is not what the transform made of it, either." if item.sent_as else ""
        if item.transform and not item.sent_as:
            why = f" The transform {item.transform} changed it on the way."
        return f"Instance {item.sop_instance_uid} in {looked_at} has other content than the one that was kept.{why}"

    detail = f"all {len(receipt.items)} instances are in {looked_at}, byte for byte"
    return Finding("objects", detail, _some(missing, say))


def _signature(exported: Exported, keys: Mapping[str, Ed25519PublicKey]) -> Finding:
    signature = exported.signature
    key = keys.get(signature.key_id)
    if key is None:
        known = " or ".join(keys)
        problem = f"It was signed with the key {signature.key_id}, and the key to check with is {known}."
        return Finding("signature", "", (problem,))
    try:
        key.verify(signature_bytes(signature), exported.signed_bytes)
    except InvalidSignature:
        problem = f"The signature by the key {signature.key_id} does not fit: it was changed after it was signed."
        return Finding("signature", "", (problem,))
    except NotAReceiptError as error:
        return Finding("signature", "", (f"The signature can't be read: {error}.",))
    return Finding("signature", f"signed with the key {signature.key_id}, and not changed since")


def _set(receipt: Receipt) -> Finding:
    found = set_hash((item.sop_instance_uid, item.content_hash) for item in receipt.items)
    problem = (
        f"The instances are not those that were to be delivered: the hash of their set is {found}, "
        f"and was to be {receipt.expected_hash}."
    )
    return Finding(
        "set",
        f"the instances are those of version {receipt.study_version} for this destination",
        () if found == receipt.expected_hash else (problem,),
    )


def _count(receipt: Receipt) -> Finding:
    identities = Counter((item.sop_instance_uid, item.content_hash, item.transform) for item in receipt.items)
    twice = [identity for identity, times in identities.items() if times > 1]
    problems = _some(twice, lambda identity: f"Instance {identity[0]} is listed {identities[identity]} times.")
    count = len({item.sop_instance_uid for item in receipt.items})
    if count != receipt.expected_count:
        problems = (f"{receipt.expected_count} instances were to be delivered, and it lists {count}.", *problems)
    return Finding("count", f"{count} of {receipt.expected_count} instances", problems)


def _outcomes(receipt: Receipt) -> Finding:
    unsent = [item for item in receipt.items if item.state != "sent" or not _stored(item.status) or item.missing_at]

    def say(item: ReceiptItem) -> str:
        if item.missing_at:
            return f"Instance {item.sop_instance_uid} was found not to be there any more at {_shown(item.missing_at)}."
        status = f" with the status {item.status}" if item.status else ""
        return f"Instance {item.sop_instance_uid} is not sent: it is {item.state}{status}."

    warned = sum(item.status in _STORED and item.status != "0000" for item in receipt.items)
    detail = "the receiver said success for each"
    if receipt.items and all(item.committed_at for item in receipt.items):
        detail = "the receiver said success for each and committed itself to it"
    elif receipt.items and all(item.committed_at or item.found_at for item in receipt.items):
        detail = "the receiver said success for each and showed that it has it"
    return Finding(
        "outcomes", f"{detail}, for {warned} of them with a warning" if warned else detail, _some(unsent, say)
    )


def _stored(status: str | None) -> bool:
    # Receivers that are no C-STORE SCP have words of their own.
    return status is None or len(status) != _STATUS_DIGITS or status in _STORED


def _times(receipt: Receipt) -> Finding:
    asked, completed = _shown(receipt.requested_at), _shown(receipt.completed_at)
    first, last = receipt.requested_at - _CLOCKS_DIFFER, receipt.completed_at + _CLOCKS_DIFFER
    problems: tuple[str, ...] = ()
    if first > last:
        problems = (f"It was complete at {completed}, before it was asked for at {asked}.",)
    wrong = [item for item in receipt.items if item.sent_at is None or not first <= item.sent_at <= last]
    early = [
        item
        for item in receipt.items
        if item.sent_at and item.committed_at and item.committed_at < item.sent_at - _CLOCKS_DIFFER
    ]
    problems += _some(wrong, lambda item: _sent_wrongly(item, receipt))
    problems += _some(
        early, lambda item: f"Instance {item.sop_instance_uid} was committed to before it was sent, by its times."
    )
    return Finding("times", f"asked for at {asked}, complete at {completed}, all in order", problems)


def _sent_wrongly(item: ReceiptItem, receipt: Receipt) -> str:
    if item.sent_at is None:
        return f"Instance {item.sop_instance_uid} has no time at which it was sent."
    if item.sent_at < receipt.requested_at:
        return f"Instance {item.sop_instance_uid} was sent at {_shown(item.sent_at)}, before it was asked for."
    return f"Instance {item.sop_instance_uid} was sent at {_shown(item.sent_at)}, after all was complete."


def _shown(time: datetime) -> str:
    return time.isoformat(sep=" ", timespec="seconds")


def _some(each: Sequence[T], say: Callable[[T], str]) -> tuple[str, ...]:
    said = tuple(say(one) for one in islice(each, _TOLD))
    return (*said, f"... and {len(each) - _TOLD} more like it.") if len(each) > _TOLD else said
