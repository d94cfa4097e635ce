from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml

from contracts.definition import Definition, RuleTest
from contracts.fact import Source
from libs.definition.case import RuleTestError, explain
from libs.definition.expectation import carry_out
from libs.definition.ruleset import RuleSet, RuleSetError

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)  # Friday, 10:30 in Malabo
NATIONAL = Path(__file__).parents[3] / "docs" / "examples" / "national.yaml"
SOURCE = Source(site="malabo", node="CT1", calling_aet="CT1", called_aet="KIVUKO", address="10.1.0.21")


def definition(**parts: Any) -> Definition:
    document: dict[str, Any] = {
        "kivuko": 1,
        "name": "Red",
        "timezone": "Africa/Malabo",
        "sites": {"malabo": {"name": "Malabo", "tenant": "minsabs"}, "bata": {"name": "Bata", "tenant": "minsabs"}},
        "calendars": {"office": {"hours": "08:00-16:00"}},
        "nodes": {
            "CT1": {"site": "malabo", "host": "10.1.0.21", "modality": "CT"},
            "PACS": {"site": "malabo", "host": "10.1.0.5", "port": 104},
            "OLD": {"site": "malabo", "host": "10.1.0.6", "port": 104, "retired": True},
            "DEAF": {"site": "malabo", "host": "10.1.0.7"},
        },
        "destinations": {
            "pacs": {"node": "PACS"},
            "old": {"node": "OLD"},
            "deaf": {"node": "DEAF"},
            "hub": {"stow": "https://hub.example/dicom-web"},
            "both": {"group": ["pacs", "hub"]},
            "first": {"group": ["old", "deaf", "pacs", "hub"], "pick": "first-healthy"},
            "nested": {"group": ["first", "both", "old"]},
        },
    }
    return Definition.model_validate({**document, **parts})


def rule(name: str, deliver: str = "pacs", trigger: str = "instance", **more: Any) -> dict[str, Any]:
    return {"name": name, "trigger": trigger, "deliver": deliver, **more}


def rules(*given: dict[str, Any]) -> RuleSet:
    return RuleSet(definition(rules=given))


def evaluate(rule_set: RuleSet, **attributes: Any) -> Any:
    inputs = rule_set.circumstances(SOURCE, "minsabs", NOW)
    return rule_set.evaluate("instance", replace(inputs, instance=attributes))


def test_the_national_example_decides_as_its_tests_say() -> None:
    national = Definition.model_validate(yaml.safe_load(NATIONAL.read_text(encoding="utf-8")))
    rule_set = RuleSet(national)
    assert len(national.tests) == 3
    for test in national.tests:
        assert carry_out(rule_set, test).delivers == set(test.delivers)


def test_all_rules_that_match_count_in_their_order() -> None:
    rule_set = rules(
        rule("all"),
        rule("mr", when='instance.Modality == "MR"'),
        rule("ct", "hub", when='instance.Modality == "CT" && source.modality == "CT"', priority="stat", transform="x"),
        rule("of studies", trigger="study"),
    )
    evaluation = evaluate(rule_set, Modality="CT", PatientName="Nobody^Reads")
    assert evaluation.rules_evaluated == 3
    assert [(match.rule, match.destinations, match.priority, match.transform) for match in evaluation.matches] == [
        ("all", ("pacs",), "routine", None),
        ("ct", ("hub",), "stat", "x"),
    ]
    assert evaluation.errors == ()
    assert evaluation.matches[1].inputs == {"Modality": "CT", "source.modality": "CT"}


def test_what_the_conditions_saw_is_recorded() -> None:
    when = 'calendars["office"] && source.site == "malabo" && now > timestamp("2020-01-01T00:00:00Z")'
    (match,) = evaluate(rules(rule("r", when=when))).matches
    assert match.inputs == {
        "calendars.office": "working time",
        "source.site": "malabo",
        "now": "2026-11-20T09:30:00+00:00",
    }


def test_a_rule_that_fails_does_not_stop_the_others() -> None:
    rule_set = rules(rule("before"), rule("broken", when='instance.ImageType[2] == "AXIAL"'), rule("after", "hub"))
    evaluation = evaluate(rule_set, ImageType=["SECRET"])
    assert [match.rule for match in evaluation.matches] == ["before", "after"]
    assert evaluation.errors == ("rule `broken` could not be decided: it asks for a value of a list that has fewer",)


def test_an_unreadable_attribute_is_absent_and_said() -> None:
    evaluation = evaluate(rules(rule("large", when="instance.Rows > 0"), rule("all")), Rows="SECRET")
    assert [match.rule for match in evaluation.matches] == ["all"]
    assert len(evaluation.errors) == 1
    assert "Rows" in evaluation.errors[0]
    assert "SECRET" not in evaluation.errors[0]


def test_a_wrong_condition_is_refused_at_once() -> None:
    with pytest.raises(RuleSetError, match=r"rule `r`: .*Modality"):
        rules(rule("r", when='instance.Modalty == "CT"'))


@pytest.mark.parametrize(
    "parts",
    [{"timezone": "Africa/Mallabo"}, {"calendars": {"c": {"days": "Lun"}}}, {"calendars": {"c": {"holidays": "XX"}}}],
)
def test_a_calendar_or_zone_that_cannot_be_used_is_refused_at_once(parts: dict[str, Any]) -> None:
    with pytest.raises(RuleSetError, match="a calendar or the time zone"):
        RuleSet(definition(**{"calendars": {"office": {}}, **parts}))


@pytest.mark.parametrize(
    ("names", "source_node", "expected"),
    [
        (("pacs",), None, ("pacs",)),
        (("both",), None, ("pacs", "hub")),
        (("both", "hub"), None, ("pacs", "hub")),
        (("first",), None, ("pacs",)),
        (("first",), "PACS", ("hub",)),
        (("nested",), None, ("pacs", "hub", "old")),
        (("old",), None, ("old",)),
        (("gone",), None, ("gone",)),
    ],
)
def test_groups(names: tuple[str, ...], source_node: str | None, expected: tuple[str, ...]) -> None:
    assert rules().resolve(names, source_node) == expected


def test_a_group_of_which_nothing_can_be_called_gives_its_first() -> None:
    destinations = {
        "old": {"node": "OLD"},
        "deaf": {"node": "DEAF"},
        "g": {"group": ["old", "deaf"], "pick": "first-healthy"},
    }
    assert RuleSet(definition(destinations=destinations)).resolve(("g",), None) == ("old",)


def test_groups_that_name_each_other_end() -> None:
    destinations = {"a": {"group": ["b"]}, "b": {"group": ["a", "hub"]}, "hub": {"stow": "https://hub.example"}}
    assert RuleSet(definition(destinations=destinations)).resolve(("a",), None) == ("hub",)


def test_a_delivery_back_to_its_source_is_a_loop() -> None:
    rule_set = rules()
    assert rule_set.returns("pacs", "PACS")
    assert not rule_set.returns("pacs", "CT1")
    assert not rule_set.returns("hub", "PACS")
    assert not rule_set.returns("gone", "PACS")


def test_a_test_gives_the_instance_what_it_says_of_the_study() -> None:
    rule_set = rules(
        rule("i", when='instance.Modality == "CT"'),
        rule(
            "s",
            "hub",
            "study",
            when='"CT" in study.ModalitiesInStudy && "bata" in study.Sites && source.tenant == "minsabs"',
        ),
        rule("n", "both", "study", when='source.node == "CT1" && source.site == "malabo" && source.modality == "CT"'),
        rule("o", "old", "study", when='order.priority == "STAT"'),
    )
    assert carry_out(rule_set, RuleTest(study={"Modality": "CT"}, source={"site": "bata"}, delivers=())).delivers == {
        "pacs",
        "hub",
    }
    assert carry_out(
        rule_set, RuleTest(study={"Modality": "MR"}, instance={"Modality": "CT"}, delivers=())
    ).delivers == {"pacs"}
    assert carry_out(rule_set, RuleTest(source={"node": "CT1"}, delivers=())).delivers == {"both"}
    assert carry_out(rule_set, RuleTest(order={"priority": "STAT"}, delivers=())).delivers == {"old"}


@pytest.mark.parametrize(
    ("test", "said"),
    [
        ({"study": {"Modalty": "CT"}}, "did you mean `Modality`?"),
        ({"study": {"Rows": "many"}}, "`Rows` is not a number"),
        ({"source": {"sit": "bata"}}, "did you mean `site`?"),
        ({"source": {"site": "batta"}}, "there is no site `batta`; did you mean `bata`?"),
        ({"source": {"node": "CT2"}}, "there is no node `CT2`"),
        ({"order": {"colour": "red"}}, "`order` has no `colour`"),
        ({"at": "yesterday"}, "`at` is not a time"),
        ({"study": {"ImageType": ["A"]}}, "rule `third` could not be decided"),
    ],
)
def test_a_test_that_cannot_be_carried_out(test: dict[str, Any], said: str) -> None:
    rule_set = rules(rule("third", when='has(instance.ImageType) && instance.ImageType[2] == "AXIAL"'))
    with pytest.raises(RuleTestError, match=said.replace("?", r"\?")):
        carry_out(rule_set, RuleTest(**test, delivers=()))


def test_a_test_of_rules_that_ask_for_the_time_must_say_when() -> None:
    rule_set = rules(rule("r", when={"calendar": "office"}))
    with pytest.raises(RuleTestError, match="add `at`"):
        carry_out(rule_set, RuleTest(delivers=()))
    assert carry_out(rule_set, RuleTest(at="2026-11-20T10:00", delivers=())).delivers == {"pacs"}
    assert carry_out(rule_set, RuleTest(at="2026-11-20T20:00", delivers=())).delivers == set()
    assert carry_out(rule_set, RuleTest(at="2026-11-20T20:00-06:00", delivers=())).delivers == set()


def test_an_explanation_names_rules_and_inputs() -> None:
    rule_set = rules(rule("ct", "both", when='instance.Modality == "CT"'))
    evaluations = explain(rule_set, RuleTest(study={"Modality": "CT"}, delivers=()))
    (match,) = evaluations["instance"].matches
    assert (match.names, match.destinations, match.inputs) == (("both",), ("pacs", "hub"), {"Modality": "CT"})
    assert evaluations["study"].matches == ()


def test_a_partner_may_have_what_its_sites_sent_and_without_sites_nothing() -> None:
    document: dict[str, Any] = {
        "kivuko": 1,
        "name": "n",
        "sites": {"a": {"name": "A"}, "b": {"name": "B"}},
        "destinations": {"d": {"s3": "s3://x"}},
        "partners": {
            "reader": {"tenant": "reader", "events": ["study.available"], "sites": ["a"]},
            "none": {"tenant": "none", "events": ["study.available"]},
        },
        "rules": [{"name": "r", "trigger": "study", "deliver": "d", "notify": ["reader", "none"]}],
    }
    rules = RuleSet(Definition.model_validate(document))
    assert [rules.may_have(partner, "a") for partner in ("reader", "none", "unknown")] == [True, False, False]
    assert not rules.may_have("reader", "b")
