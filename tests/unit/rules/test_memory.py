"""What is remembered gives what the rule set gives."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.definition import Definition
from contracts.fact import Source
from libs.definition.ruleset import Evaluation, RuleSet
from services.rules.conjunct import conjuncts
from services.rules.memory import Memory, looking
from tests.unit.rules.scene import CT1, PACS, TENANT, definition, rule

RULES = (
    rule("ct", trigger="study", when='study.Modality == "CT" && study.StudyDescription.contains("A")'),
    rule("either", "telerad", "study", when='study.Modality == "CT" || source.node == "PACS"'),
    rule("both parts", "both", "study", when={"all": [{"Modality": ["CT", "MR"]}, {"not": {"calendar": "office"}}]}),
    rule("fails", "telerad", "study", when='study.ModalitiesInStudy[1] == "SR" && study.Modality == "CT"'),
    rule("stop", "first", "study", when="study.NumberOfStudyRelatedInstances > 5", stop=True),
    rule("hour", "pacs", "study", when='now.getHours("Africa/Malabo") < 12 && study.Modality != "MR"'),
    rule("chosen", "first", "study", when='study.Modality == "MR" ? true : study.StudyDescription == "B"'),
    {"name": "rest", "trigger": "study", "discard": "nobody wants it", "when": 'study.StudyDescription == ""'},
    rule("never", "pacs", "study"),
)
BASE = definition(*RULES).model_dump(by_alias=True, exclude_defaults=True)
DEFINITION = Definition.model_validate(
    {
        **BASE,
        "kivuko": 1,
        "timezone": "Africa/Malabo",
        "calendars": {"office": {"hours": "08:00-16:00"}},
        "destinations": {**BASE["destinations"], "first": {"group": ["pacs", "telerad"], "pick": "first-healthy"}},
    }
)
SET = RuleSet(DEFINITION)
START = datetime(2026, 11, 20, tzinfo=UTC)

studies = st.fixed_dictionaries(
    {},
    optional={
        "Modality": st.sampled_from(["CT", "MR", "US"]),
        "StudyDescription": st.sampled_from(["", "A", "B", "AB"]),
        "ModalitiesInStudy": st.lists(st.sampled_from(["CT", "SR"]), max_size=2),
        "NumberOfStudyRelatedInstances": st.integers(0, 10),
    },
)
asked = st.tuples(studies, st.sampled_from([CT1, PACS]), st.integers(0, 47))


def plain(evaluation: Evaluation) -> tuple[Any, ...]:
    """Leave out what the conditions read, which is not remembered, and errors of rules after the end."""
    return tuple(replace(match, inputs={}) for match in evaluation.matches)


@settings(max_examples=60, deadline=None)
@given(st.lists(asked, min_size=1, max_size=20), st.sampled_from([(), ("stop",)]), st.sampled_from([(), ("pacs",)]))
def test_it_decides_as_the_rule_set_does(
    studies: list[tuple[Any, Source, int]], lifted: tuple[str, ...], unhealthy: tuple[str, ...]
) -> None:
    memory = Memory(SET)
    for attributes, source, hours in studies:
        at = START + timedelta(hours=hours)
        got = memory.evaluate("study", source, TENANT, at, attributes, lifted=lifted, unhealthy=unhealthy)
        inputs = looking(SET.circumstances(source, TENANT, at), "study", attributes)
        wanted = SET.evaluate("study", inputs, lifted=lifted, unhealthy=unhealthy)
        assert plain(got) == plain(wanted)
        failed = [error for error in wanted.errors if error.startswith("rule ")]
        assert [error for error in got.errors if error.startswith("rule ")] == failed


def test_a_condition_is_split_where_all_must_hold() -> None:
    assert conjuncts('a == "x && y" && (b || c) && !(d && e)') == ['a == "x && y"', "b || c", "!(d && e)"]
    assert conjuncts("a || b && c") == ["a || b && c"]
    assert conjuncts("(a && (b && c))") == ["a", "b", "c"]
