"""What is kept and not carried out is said, and what would be unsafe to leave out holds the delivery."""

from pathlib import Path
from typing import Any

import jsonschema
import pytest

from contracts.definition import Definition, json_schema
from libs.definition.force import not_in_force
from libs.definition.reading import read
from services.egress.reach import Obstacle, no_contexts, reach

pytestmark = pytest.mark.unit

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"


def definition(**parts: Any) -> Definition:
    sites = {"s": {"name": "S"}}
    nodes = {"PACS": {"site": "s", "host": "10.0.0.1", "port": 104, "commit": True}}
    return Definition.model_validate({"kivuko": 1, "name": "N", "sites": sites, "nodes": nodes} | parts)


IDS = {"t": {"prefix": {"PatientID": "A-"}}}
WHOLE = {
    "node": "PACS",
    "transform": "t",
    "confirm": "commit",
    "window": "20:00-06:00",
    "bandwidth": "2Mbit/s",
    "budget": "5GB/day",
}


def test_what_this_release_does_whole_is_not_mentioned() -> None:
    assert not_in_force(definition(destinations={"d": WHOLE, "g": {"group": ["d"]}}, transforms=IDS)) == []


@pytest.mark.parametrize(
    ("part", "words", "held"),
    [
        ({"stow": "https://hub.example"}, "stow is not in force; deliveries to it are held", True),
        ({"s3": "s3://bucket"}, "s3 is not in force; deliveries to it are held", True),
        ({"node": "PACS", "confirm": "commit"}, "with commit: true it may report on one of its own", False),
        ({"node": "PACS", "skip-existing": True}, "everything is sent", False),
    ],
)
def test_each_part_of_a_destination(part: dict[str, Any], words: str, held: bool) -> None:
    nodes = {
        "PACS": {"site": "s", "host": "10.0.0.1", "port": 104},
    }
    made = definition(nodes=nodes, destinations={"d": part}, transforms={"t": {"remove": ["PatientName"]}})
    (said,) = [sentence for sentence in not_in_force(made) if sentence.startswith("destinations.d")]
    assert words in said
    # What is promised here is what egress does.
    assert isinstance(reach(made, "d", no_contexts), Obstacle) is held


@pytest.mark.parametrize(("mine", "other", "said"), [("t", None, 1), ("t", "t", 0), (None, "t", 0), (None, None, 0)])
def test_a_failover_past_a_transform_never_takes_place(mine: str | None, other: str | None, said: int) -> None:
    nodes = {"PACS": {"site": "s", "host": "10.0.0.1", "port": 104}}
    destinations = {
        "d": {"node": "PACS", "failover": "e", "transform": mine},
        "e": {"node": "PACS", "transform": other},
    }
    made = definition(nodes=nodes, destinations=destinations, transforms={"t": {"remove": ["PatientName"]}})
    assert sum("never takes place" in sentence for sentence in not_in_force(made)) == said


def test_the_rest_is_said_once_for_all_nodes() -> None:
    nodes = {f"CT{n}": {"site": "s", "host": f"10.0.0.{n}", "may": ["store", "find"]} for n in range(1, 10)}
    assert not_in_force(definition(nodes=nodes)) == [
        "nodes: may: find is not in force; no such request is answered (CT1, CT2, CT3, CT4, CT5 and 4 more)"
    ]


def test_the_national_example_names_every_part_that_is_open() -> None:
    said = "\n".join(not_in_force(Definition.model_validate(read((EXAMPLES / "national.yaml").read_text()).data)))
    for part in (
        "find",
        "move",
        "failover",
        "stow",
        "skip-existing",
        "s3",
        "partners.telerad-sl",
        "malabo-routing",
        "network-uptime",
    ):
        assert part in said


@pytest.mark.parametrize(("trigger", "said"), [("order", 0), ("procedure", 0), ("amended", 0), ("series", 0)])
def test_rules_that_nothing_triggers_yet(trigger: str, said: int) -> None:
    made = definition(destinations={"d": WHOLE}, rules=[{"name": "r", "trigger": trigger, "deliver": "d"}])
    assert sum(f"the trigger {trigger} is not in force" in one for one in not_in_force(made)) == said


@pytest.mark.parametrize("name", ["clinic.yaml", "national.yaml"])
def test_the_schema_for_editors_takes_the_examples(name: str) -> None:
    schema = json_schema()
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(read((EXAMPLES / name).read_text()).data, schema)


@pytest.mark.parametrize(
    "wrong",
    [
        {"nam": "x"},
        {"nodes": {"A": {"site": "s", "port": 0}}},
        {"sites": {"s": {"name": "S", "link": {"bandwidth": "2MB"}}}},
        {"rules": [{"name": "x", "trigger": "study", "deliver": 5}]},
        {"retention": [{"keep": "5 years"}]},
    ],
)
def test_the_schema_for_editors_refuses_what_the_model_refuses(wrong: dict[str, Any]) -> None:
    document = {"kivuko": 1, "name": "N", "sites": {"s": {"name": "S"}}} | wrong
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(document, json_schema())
    with pytest.raises(ValueError, match="validation error"):
        Definition.model_validate(document)
