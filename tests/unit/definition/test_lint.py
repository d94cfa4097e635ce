from datetime import UTC, datetime, timedelta
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from ruamel.yaml import YAML

from contracts.definition import Definition
from libs.definition.condition import compile_condition
from libs.definition.inputs import Inputs
from libs.definition.lint import Finding, Use, lint, unused
from libs.definition.reading import read
from libs.definition.truth import formula, implies, is_possible
from libs.definition.validation import check

NOW = datetime(2026, 11, 20, 9, 30, tzinfo=UTC)
EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
BASE: dict[str, Any] = {
    "kivuko": 1,
    "name": "Red",
    "sites": {"malabo": {"name": "Malabo"}, "bata": {"name": "Bata"}},
    "calendars": {"office": {}},
    "nodes": {
        "CT1": {"site": "malabo", "host": "10.0.0.3", "may": ["store"], "modality": "CT"},
        "PACS": {"site": "malabo", "host": "10.0.0.1", "port": 104, "may": ["store"]},
        "BATA": {"site": "bata", "host": "10.0.0.2", "port": 104, "may": ["store"]},
    },
    "destinations": {
        "pacs": {"node": "PACS"},
        "bata": {"node": "BATA"},
        "cloud": {"s3": "s3://studies/x"},
        "both": {"group": ["pacs", "cloud"]},
    },
    "transforms": {"prefixed": {"prefix": {"PatientID": "X-"}}},
}


def findings(*rules: dict[str, Any]) -> list[Finding]:
    text = StringIO()
    named = [{"name": f"r{number}", "trigger": "study", **rule} for number, rule in enumerate(rules)]
    YAML(typ="safe").dump({**BASE, "rules": named}, text)
    document = read(text.getvalue())
    definition = check(document)
    assert isinstance(definition, Definition), definition
    return lint(document, definition)


def test_a_tag_may_be_called_as_a_keyword_is() -> None:
    assert kinds({"when": 'study.Tags["Modality"] == "any text"', "deliver": "pacs"}) == []


def kinds(*rules: dict[str, Any]) -> list[str]:
    return [found.kind for found in findings(*rules)]


@pytest.mark.parametrize(
    "when",
    [
        'study.Modality == "CT" && study.Modality == "MR"',
        'study.Modality in ["CT", "MR"] && !(study.Modality in ["CT", "MR", "US"])',
        "study.Rows > 5 && study.Rows < 6",
        'study.StudyDate > "20260101" && study.StudyDate < "20250101"',
        "calendars.office && !calendars.office",
        'study.Modality == "" && study.Modality == "CT"',
        "false",
        {"all": [{"Modality": "CT"}, {"Modality": "MR"}]},
    ],
)
def test_a_condition_that_is_never_true_is_found(when: Any) -> None:
    (found,) = findings({"deliver": "cloud", "when": when})
    assert (found.level, found.kind) == ("warning", "never")
    assert "never applies" in found.problem.message
    assert found.problem.path.startswith("rules[0].when")


@pytest.mark.parametrize(
    "when",
    [
        'study.Modality == "CT" || study.Modality == "MR"',
        "study.Rows > 5 && study.Rows < 7",
        "study.SliceThickness > 1.0 && study.SliceThickness < 1.0000001",
        'study.Modality.startsWith("C") && study.Modality.contains("T")',
        'study.Modality == "CT" && "MR" in study.ModalitiesInStudy',
    ],
)
def test_a_condition_that_may_be_true_is_let_be(when: str) -> None:
    assert kinds({"deliver": "cloud", "when": when}) == []


def test_a_condition_that_is_always_true_is_noted() -> None:
    assert kinds({"deliver": "cloud", "when": "study.Rows > 5 || study.Rows <= 5"}) == ["always"]


def test_a_rule_behind_one_that_ends_is_never_reached() -> None:
    stop = {"deliver": "cloud", "when": 'study.Modality in ["CT", "MR"]', "stop": True}
    narrower = {"deliver": "pacs", "when": 'study.Modality == "CT" && study.Rows > 5'}
    (found,) = findings(stop, narrower)
    assert (found.kind, found.problem.path) == ("unreachable", "rules[1].name")
    assert "r0" in found.problem.message
    assert kinds(narrower, stop) == []
    assert kinds(stop, {**narrower, "when": "study.Rows > 5"}) == []
    assert kinds(stop, {**narrower, "when": None, "trigger": "instance"}) == []
    discard = {"discard": "test images", "when": 'study.PatientID.startsWith("TEST")'}
    assert kinds(discard, {"deliver": "pacs", "when": 'study.PatientID.startsWith("TEST")'}) == ["unreachable"]


def test_rules_that_name_one_destination_in_different_ways_are_found() -> None:
    ct = {"deliver": "both", "when": 'study.Modality == "CT"', "transform": "prefixed"}
    (found,) = findings(ct, {"deliver": "cloud", "when": "study.Rows > 5"})
    assert (found.level, found.kind) == ("warning", "overlap")
    assert "cloud" in found.problem.message
    assert kinds(ct, {"deliver": "cloud", "when": 'study.Modality == "MR"'}) == []
    assert "overlap" not in kinds(ct, {"deliver": "bata", "when": "study.Rows > 5"})
    (noted,) = findings({"deliver": "cloud"}, {"deliver": "cloud", "priority": "stat", "when": "study.Rows > 5"})
    assert (noted.level, noted.kind) == ("note", "overlap")
    assert "stat wins" in noted.problem.message


def test_a_loop_between_sites_is_found() -> None:
    there, back = {"deliver": "bata"}, {"deliver": "both"}
    (found,) = findings(there, back)
    assert (found.level, found.kind) == ("warning", "loop")
    assert "BATA -> PACS -> BATA" in found.problem.message
    assert kinds(there, {**back, "when": 'source.node != "BATA"'}) == []
    assert kinds(there, {**back, "when": 'source.site == "malabo"'}) == []
    assert kinds(there) == []


def test_what_nothing_can_be_equal_to_is_found() -> None:
    found = findings({"deliver": "cloud", "when": 'source.node == "pacs" || study.Modality == "ct"'})
    assert [one.kind for one in found] == ["unknown", "unknown"]
    assert {one.problem.hint for one in found} == {"did you mean PACS?", 'did you mean "CT"?'}
    assert kinds({"deliver": "cloud", "when": {"StudyDate": "2026-11-20"}}) == ["unknown"]
    assert kinds({"deliver": "cloud", "when": 'study.StudyVerifiedDate == "20200101"'}) == ["retired"]


@pytest.mark.parametrize("example", ["clinic.yaml", "national.yaml"])
def test_the_examples_give_no_warning(example: str) -> None:
    document = read((EXAMPLES / example).read_text())
    definition = check(document)
    assert isinstance(definition, Definition)
    assert [found for found in lint(document, definition) if found.level == "warning"] == []


def test_many_rules_are_looked_through_within_bounds() -> None:
    many = [{"deliver": "cloud", "when": f"study.Rows > {number}", "priority": "bulk"} for number in range(150)]
    many += [{"deliver": "cloud", "when": f"study.Columns > {number}"} for number in range(150)]
    assert {found.kind for found in findings(*many)} == {"overlap"}


def test_a_rule_that_has_not_matched_for_90_days_is_noted() -> None:
    text = StringIO()
    names = ("old", "used", "new", "stale", "unheard")
    rules = [{"name": name, "trigger": "study", "deliver": "pacs"} for name in names]
    YAML(typ="safe").dump({**BASE, "rules": rules}, text)
    document = read(text.getvalue())
    definition = check(document)
    assert isinstance(definition, Definition)
    long_ago = NOW - timedelta(days=200)
    uses = {
        "old": Use(long_ago, None),
        "used": Use(long_ago, NOW - timedelta(days=89)),
        "new": Use(NOW - timedelta(days=89), None),
        "stale": Use(long_ago, NOW - timedelta(days=90)),
    }
    found = unused(document, definition, uses, NOW)
    assert [one.problem.path for one in found] == ["rules[0].name", "rules[3].name"]
    assert "never" in found[0].problem.message


LEAVES = st.sampled_from(
    (
        'study.Modality == "CT"', 'study.Modality != "MR"', 'study.Modality in ["CT", "MR"]', "study.Rows > 5",
        "study.Rows <= 6", "7 > study.Rows", "study.SliceThickness < 1.5", 'study.Modality > "CT"',
        'study.Modality.contains("T")', "calendars.office", '"CT" in study.ModalitiesInStudy', "true", "false",
    )
)  # fmt: skip
CONDITIONS = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.tuples(inner, inner).map(lambda two: f"({two[0]}) && ({two[1]})"),
        st.tuples(inner, inner).map(lambda two: f"({two[0]}) || ({two[1]})"),
        inner.map(lambda one: f"!({one})"),
    ),
    max_leaves=5,
)
STUDIES = st.fixed_dictionaries(
    {},
    optional={
        "Modality": st.sampled_from(("CT", "MR", "US", "T", "C")),
        "Rows": st.integers(4, 8),
        "SliceThickness": st.sampled_from((1.0, 1.5, 2.0)),
        "ModalitiesInStudy": st.sampled_from((["CT"], ["MR"])),
    },
)


@given(CONDITIONS, CONDITIONS, STUDIES, st.booleans())
def test_what_is_said_of_conditions_is_so(one: str, other: str, study: dict[str, Any], office: bool) -> None:
    inputs = Inputs(NOW, study=study, calendars={"office": office})
    conditions = [compile_condition(text, trigger="study", calendars=("office",)) for text in (one, other)]
    first, second = (condition.matches(inputs) for condition in conditions)
    formulas = [formula(condition) for condition in conditions]
    assert not first or is_possible(formulas[0])
    assert not (first and second) or is_possible(*formulas)
    if implies(*formulas):
        assert second or not first
