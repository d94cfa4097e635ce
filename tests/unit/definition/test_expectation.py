"""Tests beside the rules: every expectation that can be written, met and not met."""

from typing import Any

import pytest

from contracts.definition import Definition, RuleTest
from libs.definition.case import RuleTestError
from libs.definition.expectation import Unmet, carry_out, unmet
from libs.definition.ruleset import RuleSet

pytestmark = pytest.mark.unit

RULES: list[dict[str, Any]] = [
    {"name": "junk", "trigger": "instance", "when": 'instance.Modality == "OT"', "discard": "nobody reads it"},
    {"name": "strange", "trigger": "study", "when": 'study.PatientID == ""', "quarantine": "no patient"},
    {"name": "all", "trigger": "instance", "deliver": "pacs", "tag": {"seen": "yes", "by": "instance"}},
    {"name": "ct", "trigger": "study", "when": 'study.Modality == "CT"', "deliver": ["readers", "pacs"],
     "priority": "urgent", "transform": "anon", "notify": "partner", "tag": {"by": "ct"}},
    {"name": "mr", "trigger": "study", "when": 'study.Modality == "MR"', "deliver": "readers", "hold": "30m"},
    {"name": "again", "trigger": "study", "when": 'study.Modality == "CT"', "deliver": "pacs", "tag": {"by": "again"}},
    {"name": "hurry", "trigger": "study", "when": 'study.StudyDescription == "STROKE"', "priority": "stat"},
    {"name": "wait", "trigger": "study", "when": 'study.StudyDescription == "LATER"', "hold": "20:00"},
]  # fmt: skip
SET = RuleSet(
    Definition.model_validate(
        {
            "kivuko": 1,
            "name": "Red",
            "sites": {"malabo": {"name": "Malabo"}},
            "nodes": {"PACS": {"site": "malabo", "host": "10.1.0.5", "port": 104}},
            "destinations": {"pacs": {"node": "PACS"}, "other": {"node": "PACS"}, "readers": {"group": ["other"]}},
            "transforms": {"anon": {"remove": ["PatientName"]}},
            "partners": {"partner": {"tenant": "partner", "events": ["study.available"], "sites": ["malabo"]}},
            "rules": RULES,
        }
    )
)
CT = {"Modality": "CT", "PatientID": "1"}
MR = {"Modality": "MR", "PatientID": "1"}


@pytest.mark.parametrize(
    ("study", "expected"),
    [
        (CT, {"delivers": ("readers", "pacs"), "priority": "urgent", "transform": "anon", "notifies": "partner"}),
        (CT, {"delivers": ("readers", "pacs"), "tags": {"seen": "yes", "by": "ct"}, "held": ()}),
        (MR, {"delivers": ("readers", "pacs"), "held": "readers", "priority": {"pacs": "routine"}}),
        (MR, {"delivers": ("readers", "pacs"), "transform": {"readers": None}, "discarded": False}),
        ({**MR, "StudyDescription": "STROKE"}, {"delivers": ("readers", "pacs"), "priority": "stat"}),
        ({**CT, "StudyDescription": "LATER"}, {"delivers": ("readers", "pacs"), "held": ("readers", "pacs")}),
        ({"Modality": "OT", "PatientID": "1"}, {"delivers": (), "discarded": True, "quarantined": False}),
        ({"Modality": "CT"}, {"delivers": ("pacs",), "quarantined": True, "tags": {"seen": "yes", "by": "instance"}}),
    ],
)
def test_what_the_rules_do_is_what_was_expected(study: dict[str, str], expected: dict[str, Any]) -> None:
    test = RuleTest.model_validate({"study": study, **expected})
    assert list(unmet(test, carry_out(SET, test))) == []


@pytest.mark.parametrize(
    ("expected", "told"),
    [
        ({"delivers": ("pacs",)}, Unmet("delivers", "[pacs]", "[pacs, readers]")),
        ({"priority": "high", "transform": {"pacs": None}}, Unmet("transform", "none for pacs", "anon")),
        ({"priority": {"readers": "stat"}}, Unmet("priority", "stat for readers", "urgent")),
        ({"priority": {"other": "stat"}}, Unmet("priority", "stat for other", "no delivery")),
        ({"held": "pacs"}, Unmet("held", "[pacs]", "[]")),
        ({"notifies": ()}, Unmet("notifies", "[]", "[partner]")),
        ({"tags": {}}, Unmet("tags", "{}", "{by: ct, seen: yes}")),
        ({"discarded": True}, Unmet("discarded", "true", "false")),
        ({"quarantined": True}, Unmet("quarantined", "true", "false")),
    ],
)
def test_what_is_not_met_is_told_with_what_the_rules_give(expected: dict[str, Any], told: Unmet) -> None:
    test = RuleTest.model_validate({"study": CT, "delivers": ("readers", "pacs"), **expected})
    assert list(unmet(test, carry_out(SET, test))) == [told]


def test_a_test_that_cannot_be_carried_out_says_why() -> None:
    with pytest.raises(RuleTestError, match="there is no node `CT9`"):
        carry_out(SET, RuleTest(source={"node": "CT9"}, delivers=()))
