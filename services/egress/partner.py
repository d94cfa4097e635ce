"""How a partner of the network definition is told, or why it can't be."""

from dataclasses import dataclass

from contracts.definition import Definition
from contracts.partner import STUDY_AVAILABLE_WORD, partner_of


@dataclass(frozen=True)
class PartnerTarget:
    """A partner with a queue of its own at the broker.

    Attributes
    ----------
    key
        Of the partner in the network definition.
    tenant
        The partner's own: part of its routing keys and the name of its queue.
    """

    key: str
    tenant: str


def reach_partner(
    definition: Definition, destination: str, *, queues: bool, public_url: str | None
) -> PartnerTarget | str:
    """Tell how the partner that a destination stands for is told; or why it is not, as a sentence without its end.

    Parameters
    ----------
    definition
        The network definition in force.
    destination
        See `contracts.partner.partner_destination`.
    queues
        Whether the broker has queues for partners.
    public_url
        Address under which partners reach this service, if it is known.
    """
    key = partner_of(destination) or ""
    partner = definition.partners.get(key)
    if partner is None:
        return f"partner {key} is not in the network definition: add it again, or leave it held"
    if STUDY_AVAILABLE_WORD not in partner.events:
        return f"partner {key} gets no {STUDY_AVAILABLE_WORD}: add it to its events"
    if not queues:
        return f"partner {key} has no queue here: partners are told by deployments with RabbitMQ only"
    if public_url is None:
        return f"partner {key} could not fetch what it is told of: set KIVUKO_EGRESS_PUBLIC_URL, and start again"
    return PartnerTarget(key, partner.tenant)
