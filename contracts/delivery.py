"""Events about deliveries. A delivery is (study, destination). Requests come from rules, the rest from egress."""

from typing import Literal

from pydantic import JsonValue

from contracts.fact import Fact, Instant, Sha256, Uid, plain, pseudonym
from contracts.routing import PriorityV1


class DeliveryItem(Fact):
    """One instance to deliver: (tenant, SOP Instance UID, content hash, destination, version of its transforms)."""

    sop_instance_uid: Uid = pseudonym("SOP Instance UID (0008,0018).")
    sop_class_uid: Uid = plain("SOP Class UID (0008,0016).")
    transfer_syntax_uid: Uid = plain("Transfer syntax of the object as kept.")
    content_hash: Sha256 = plain("SHA-256 of the dataset's bytes as kept.")
    object_key: str = pseudonym("Key of the Part 10 object in the object store.")
    size: int = plain("Length of the Part 10 object in bytes.", ge=0)
    received_at: Instant | None = plain(
        "When this content was durable, UTC: of several contents of one instance the latest is the one to deliver.",
        default=None,
    )
    came_round: bool = plain(
        "Its copy had expired, and it came again from another node than first: a destination that has this content "
        "does not get it again, or it would go round between sites for ever.",
        default=False,
    )


class DeliveryHold(Fact):
    """A rule keeps a delivery back."""

    rule: str = plain("Name of the rule.")
    until: Instant | None = plain("Until when, UTC; none: until a person releases it.", default=None)


class DeliveryRequested(Fact):
    """Instances of a study are to go to a destination. Several requests make one delivery, in any order."""

    study_instance_uid: Uid = pseudonym("Study Instance UID (0020,000D).")
    destination: str = plain("Key of the destination in the network definition; never a group.")
    priority: PriorityV1 = plain("Lane; the highest of all requests of the delivery wins.")
    network_version: int = plain("Version of the network definition that decided.", ge=1)
    rules: tuple[str, ...] = plain("Names of the rules that asked for it.", min_length=1)
    source_node: str = plain("Node that sent the study first; a delivery back to it would be a loop.")
    transform: str | None = plain("Transform of the rule, applied before the destination's own.", default=None)
    transform_document: dict[str, JsonValue] | None = plain(
        "What that transform said when it was decided, as in the network definition: it is done like this, whatever a "
        "later definition says. None without a transform, and from a release that did not say.",
        default=None,
    )
    decided_under: int | None = plain(
        "Version of the network definition under which rules last asked for these instances; none: `network_version`. "
        "It is a lower one where they were asked for earlier and are told of again with the rest of the study.",
        ge=1,
        default=None,
    )
    items: tuple[DeliveryItem, ...] = pseudonym("The instances, at most 500.")
    study_version: int | None = plain(
        "Version of the complete study, when this request closes the delivery.", default=None
    )
    expected_count: int | None = plain(
        "How many instances of the study this destination gets in all, when this request closes the delivery.",
        default=None,
    )
    expected_hash: Sha256 | None = plain(
        "Hash of the set of these instances, as in a manifest, when this request closes the delivery: their number "
        "alone can't tell one that is missing from another that came later.",
        default=None,
    )
    hold: DeliveryHold | None = plain(
        "That it is not to go yet. Of several requests those of the highest lane count, and of these the longest hold.",
        default=None,
    )


class InstanceFailure(Fact):
    """Why one instance did not arrive."""

    sop_instance_uid: Uid = pseudonym("SOP Instance UID (0008,0018).")
    status: str = plain("DICOM status as four hexadecimal digits, or a fixed word where there was no answer.")
    reason: str = plain("Why, as a sentence without values from the dataset.")


class _DeliveryState(Fact):
    delivery_id: str = plain("Identifier of the delivery.")
    study_instance_uid: Uid = pseudonym("Study Instance UID (0020,000D).")
    destination: str = plain("Key of the destination in the network definition.")


class DeliveryAttempted(_DeliveryState):
    """One attempt of a delivery ended: nothing of it is in the hand of the replica any more that made it."""

    attempt: int = plain("Number of the attempt of this delivery, from 1.", ge=1)
    sent_count: int = plain("Instances that the receiver said success for.", ge=0)
    failed_count: int = plain("Instances that did not arrive.", ge=0)
    warning_count: int = plain("Instances stored with a warning status.", ge=0, default=0)
    bytes_sent: int = plain("Bytes of the instances that arrived.", ge=0)
    started_at: Instant = plain("When its first instance was taken in hand, UTC.")
    ended_at: Instant = plain("When the last of them was out of hand, UTC.")
    problem: str | None = plain("What went wrong, as a sentence; none if all went well.", default=None)
    failures: tuple[InstanceFailure, ...] = pseudonym("The first 20 instances that failed.", default=())
    next_attempt_at: Instant | None = plain("When the next attempt is due, UTC; none if none is.", default=None)


class DeliveryCompleted(_DeliveryState):
    """The receiver said success for every instance of this version of the study."""

    study_version: int = plain("Version of the study that is now delivered in full.", ge=1)
    instance_count: int = plain("Number of instances delivered.", ge=1)
    bytes_sent: int = plain("Bytes delivered.", ge=0)
    attempts: int = plain("Attempts that it took.", ge=1)
    requested_at: Instant = plain("When the first request came, UTC.")
    completed_at: Instant = plain("When the last success came, UTC.")


class DeliveryFailed(_DeliveryState):
    """The delivery cannot go on by itself: people must look. It is kept and can be tried again."""

    failed_count: int = plain("Instances that did not arrive: refused for good, or given up.", ge=1)
    sent_count: int = plain("Instances that did arrive.", ge=0)
    failures: tuple[InstanceFailure, ...] = pseudonym("The first 20 instances that failed.")
    reason: str | None = plain("Why it stopped, as a sentence without values from the dataset.", default=None)


class DeliveryDiverted(_DeliveryState):
    """The delivery goes to another destination instead; told again when all of it has arrived there.

    The delivery to that other destination has events of its own.
    """

    instead: str = plain("Key of the destination that gets it instead.")
    actor: str | None = plain(
        "Who ordered it: name of the token, or `local` for the local socket; none: its destination was out of reach.",
        default=None,
    )
    reason: str | None = plain("Why, as a sentence without personal data.", default=None)
    arrived_version: int | None = plain(
        "Version of the study of which all that was to go here has arrived at the other destination; none before.",
        ge=1,
        default=None,
    )


class DeliveryUnconfirmed(_DeliveryState):
    """The destination said success for instances, and was seen not to have them when it was asked later.

    Nothing is sent again because of it: people must look, and decide.
    """

    asked: Literal["query", "commitment"] = plain("How it was asked: C-FIND, or storage commitment.")
    missing_count: int = plain("Instances that were missing for the first time.", ge=1)
    sent_count: int = plain("Instances of the delivery that it had said success for.", ge=1)
    missing: tuple[Uid, ...] = pseudonym("SOP Instance UID (0008,0018) of the first 20 of them.")


class DeliveryOrdered(_DeliveryState):
    """A person decided about a delivery; until that is taken back, it wins over all that egress would do by itself."""

    order: Literal["held", "released", "cancelled", "retried"] = plain(
        "held: nothing more goes until it is released. cancelled: what is not sent is given up, until it is released, "
        "tried again, or a later version of the study asks for it."
    )
    actor: str = plain("Who did it: name of the token, or `local` for the local socket.")
    reason: str | None = plain("Why, as the person wrote it; without personal data.", default=None)
    study_version: int | None = plain(
        "Last version of the study that was to be delivered when it was ordered, 1 before it was complete; none from a "
        "release that did not say.",
        ge=1,
        default=None,
    )


class DeliveryChanged(_DeliveryState):
    """A person changed how urgent a delivery is; what is asked for later does not change it back."""

    priority: PriorityV1 = plain("Its lane from now on.")
    actor: str = plain("Who did it: name of the token, or `local` for the local socket.")
    reason: str | None = plain("Why, as the person wrote it; without personal data.", default=None)


class DestinationChanged(Fact):
    """Whether things can be sent to a destination changed, as far as egress knows from what it sends there."""

    destination: str = plain("Key of the destination in the network definition.")
    healthy: bool = plain("Whether it could be reached the last time, and nobody has paused it.")
    problem: str | None = plain("Why not, as a sentence; none if it is healthy.", default=None)
    since: Instant = plain("Since when that is so, UTC.")
