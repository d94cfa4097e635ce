import ssl
from functools import partial
from typing import Any

import pytest

from contracts.definition import Definition
from services.egress.reach import Obstacle, Target, no_contexts, reach


def network(destination: dict[str, Any] | None = None, node: dict[str, Any] | None = None) -> Definition:
    return Definition.model_validate(
        {
            "kivuko": 1,
            "name": "test",
            "aets": ["KIVUKO2", "OTHER"],
            "sites": {"a": {"name": "A"}},
            "nodes": {"PACS": {"site": "a", "host": "10.0.0.5", "port": 104, "associations": 3} | (node or {})},
            "transforms": {"lossless": {"transfer-syntax": "jpeg2000-lossless"}},
            "destinations": {"pacs": {"node": "PACS"} | (destination or {}), "hub": {"stow": "https://hub.example/"}},
        }
    )


def test_a_node_with_a_port_is_called_by_its_title_and_with_our_first() -> None:
    assert reach(network(), "pacs", no_contexts) == Target("10.0.0.5", 104, "PACS", "KIVUKO2", 3)


def test_the_destination_limits_associations_before_the_node_does() -> None:
    target = reach(network({"associations": 7}, {"aet": "ARCHIVE"}), "pacs", no_contexts)
    assert target == Target("10.0.0.5", 104, "ARCHIVE", "KIVUKO2", 7)


@pytest.mark.parametrize(
    ("destination", "node", "words"),
    [
        ({}, {"tls": True}, "TLS"),
        ({}, {"tls": {"client": "secret"}}, "TLS"),
        ({}, {"retired": True}, "retired"),
        ({}, {"port": None}, "no host and port"),
    ],
)
def test_what_this_release_cannot_do_is_an_obstacle(
    destination: dict[str, Any], node: dict[str, Any], words: str
) -> None:
    found = reach(network(destination, node), "pacs", no_contexts)
    assert isinstance(found, Obstacle)
    assert words in found.reason


def test_tls_calls_with_the_certificate_that_the_node_asks_for() -> None:
    made = {None: partial(ssl.create_default_context), "ours": partial(ssl.create_default_context)}
    own = reach(network(node={"tls": True}), "pacs", made.__getitem__)
    other = reach(network(node={"tls": {"client": "ours"}}), "pacs", made.__getitem__)
    assert isinstance(own, Target)
    assert isinstance(other, Target)
    assert (own.tls, other.tls) == (made[None], made["ours"])


def test_unknown_destinations_other_kinds_and_no_definition_are_obstacles() -> None:
    for definition, key, words in (
        (network(), "gone", "not in the"),
        (network(), "hub", "STOW"),
        (None, "pacs", "no n"),
    ):
        found = reach(definition, key, no_contexts)
        assert isinstance(found, Obstacle)
        assert words in found.reason
