"""What partners are told: events on an exchange of their own. Producer: egress; each is a delivery like any other."""

from contracts.fact import Fact, Uid, plain, pseudonym
from contracts.routing import PriorityV1
from contracts.topics import Topic

#: Partners have queues on this exchange and never touch the internal one.
PARTNER_EXCHANGE = "kivuko.partners"
#: Family, event and version: the end of the routing key, and of the event's type.
STUDY_AVAILABLE = "study.available.v1"
#: What stands in `Partner.events` for it.
STUDY_AVAILABLE_WORD = "study.available"
_PREFIX = "partner:"


def partner_destination(partner: str) -> str:
    """Name the destination of deliveries that tell a partner: no key of a destination holds a colon."""
    return f"{_PREFIX}{partner}"


def partner_of(destination: str) -> str | None:
    """Give the key of the partner that a destination stands for; none for a destination of the definition."""
    return destination.removeprefix(_PREFIX) if destination.startswith(_PREFIX) else None


def routing_key(tenant: str, name: str = STUDY_AVAILABLE) -> str:
    """Give the routing key of an event for a partner's tenant: `partner.TENANT.study.available.v1`."""
    return f"partner.{tenant}.{name}"


def partner_queue(tenant: str) -> str:
    """Name the queue of a partner's tenant; it is bound with `partner.TENANT.#`."""
    return f"partner.{tenant}"


class StudyAvailable(Fact):
    """A study can be fetched. Nothing of it but its identifier, numbers and an address leaves with this event."""

    delivery_id: str = plain("Identifier of the delivery: the same for every version of the study.")
    study_instance_uid: Uid = pseudonym("Study Instance UID (0020,000D).")
    study_version: int = plain("Version of the study that can be fetched.", ge=1)
    instance_count: int = plain("Number of its instances that the partner may have.", ge=1)
    size: int = plain("Bytes of these instances, as Part 10 files.", ge=0)
    priority: PriorityV1 = plain("Lane that the rules asked for.")
    reference: str = plain(
        "HTTPS address of the study, which stays: GET lists its instances; `.zip` after it gives all of them. A token "
        "of the partner is needed."
    )


#: Events on the exchange of partners; their routing keys are made by `routing_key`.
PARTNER_TOPICS: tuple[Topic, ...] = (Topic(STUDY_AVAILABLE, StudyAvailable, ("egress",)),)
