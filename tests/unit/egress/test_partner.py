"""How a partner is told, or why it is not."""

from typing import Any

import pytest

from contracts.definition import Definition
from contracts.partner import partner_destination, partner_of, routing_key
from services.egress.partner import PartnerTarget, reach_partner

URL = "https://images.example"


def definition(**partner: Any) -> Definition:
    values = {"tenant": "reader", "events": ["study.available"], "sites": ["a"]} | partner
    return Definition.model_validate(
        {"kivuko": 1, "name": "n", "sites": {"a": {"name": "A"}}, "partners": {"telerad": values}}
    )


def test_a_partner_is_told_on_its_own_keys() -> None:
    found = reach_partner(definition(), "partner:telerad", queues=True, public_url=URL)
    assert found == PartnerTarget("telerad", "reader")
    assert routing_key("reader") == "partner.reader.study.available.v1"


@pytest.mark.parametrize(
    ("made", "queues", "url", "words"),
    [
        (definition(), False, URL, "RabbitMQ only"),
        (definition(), True, None, "set KIVUKO_EGRESS_PUBLIC_URL"),
        (definition(events=["other"]), True, URL, "add it to its events"),
    ],
)
def test_what_keeps_it_from_being_told_is_said(made: Definition, queues: bool, url: str | None, words: str) -> None:
    found = reach_partner(made, "partner:telerad", queues=queues, public_url=url)
    assert isinstance(found, str)
    assert words in found
    gone = reach_partner(made, "partner:gone", queues=queues, public_url=url)
    assert isinstance(gone, str)
    assert "partner gone is not in the network definition" in gone


def test_a_partner_is_no_destination_of_the_definition() -> None:
    assert partner_of(partner_destination("telerad")) == "telerad"
    assert partner_of("telerad") is None
