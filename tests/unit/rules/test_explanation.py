from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

from contracts.definition import Definition
from contracts.fact import Source
from libs.definition.ruleset import RuleSet
from services.rules.chronicle import Kind, Version
from services.rules.explanation import Said, explain

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)
SOURCE = Source(site="malabo", node="CT1", calling_aet="CT1", called_aet="KIVUKO", address="10.0.0.1")


def kind(count: int, **attributes: Any) -> Kind:
    return Kind(SOURCE, 1, attributes, ((int(NOON.timestamp()) // 60, count, count * 1000),))


VERSION = Version(
    1, NOON, 7, NOON, SOURCE, {"Modality": "CT"}, (kind(1, ImageType=["LOCALIZER"]), kind(9, ImageType=["AXIAL"]))
)


def explained(*rules: dict[str, Any], version: Version = VERSION) -> list[Said]:
    definition = Definition.model_validate(
        {
            "kivuko": 1,
            "name": "network",
            "sites": {"malabo": {"name": "Malabo"}},
            "nodes": {"pacs": {"site": "malabo", "host": "10.0.0.2", "port": 104}},
            "destinations": {"archive": {"node": "pacs"}},
            "rules": [{"name": f"r{at}", "trigger": "instance", **rule} for at, rule in enumerate(rules, start=1)],
        }
    )
    return explain(RuleSet(definition), "default", version)


SCOUTS = {"when": '"LOCALIZER" in instance.ImageType', "discard": "a scout"}
ALL = {"deliver": "archive"}


def test_a_rule_does_not_count_for_the_images_of_which_one_before_it_ended_the_evaluation() -> None:
    scouts, rest = explained(SCOUTS, ALL)
    assert (scouts.matched, scouts.count, scouts.of) == (True, 1, 10)
    assert (rest.matched, rest.count, rest.of, rest.ended_by) == (True, 9, 10, None)
    assert rest.problem == "rules before it ended the evaluation: `r1` for 1 of 10"


def test_a_rule_behind_others_that_ended_it_for_all_images_says_so() -> None:
    *_, last = explained(SCOUTS, {"when": '"AXIAL" in instance.ImageType', "stop": True, **ALL}, ALL)
    assert last.ended_by == "r1"


def test_a_rule_explains_an_image_that_it_was_asked_about() -> None:
    _, rule = explained(SCOUTS, {"when": "instance.ImageType.size() == 2", **ALL})
    assert rule.matched is False
    assert rule.why is not None
    assert rule.why.root.values == {"instance.ImageType": ["AXIAL"]}


def test_a_rule_of_which_a_person_released_what_it_had_put_aside_does_not_count() -> None:
    aside = {"quarantine": "a phantom"}
    released, rest = explained(aside, ALL, version=replace(VERSION, lifted=frozenset({"r1"})))
    assert released.matched is False
    assert released.problem is not None
    assert "released" in released.problem
    assert (rest.count, rest.ended_by) == (10, None)


def test_a_rule_for_the_study_says_what_of_it_was_kept_back_before() -> None:
    _, stop, readers = explained(SCOUTS, {"stop": True, **ALL}, {"trigger": "study", **ALL})
    assert stop.ended_by is None
    assert readers.problem == "1 of the instances go nowhere by it: they were kept back when they came, by `r1` (1)"
