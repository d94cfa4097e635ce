"""Sentences and details of the executable examples: readable, and without anything personal."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_origin

import pytest
from pydantic import BaseModel

from contracts.envelope import Event
from contracts.fact import PERSONAL_KEY, Fact
from contracts.topics import BY_TYPE, TOPICS
from services.audit.timeline import LONGEST_LIST, details, sentence

pytestmark = pytest.mark.unit

#: Of the internal events; what partners are told never comes to the audit log.
EXAMPLES = sorted(
    path
    for path in (Path(__file__).parents[3] / "contracts" / "examples").glob("*/*.json")
    if path.parent.name in {topic.name for topic in TOPICS}
)


def _fact(path: Path) -> Fact:
    content = json.loads(path.read_text())
    data: Fact = Event[BY_TYPE[content["type"]].model].model_validate(content).data  # type: ignore[misc]
    return data


def _leaves(value: Any) -> Iterator[str]:
    match value:
        case dict():
            for one in value.values():
                yield from _leaves(one)
        case list() | tuple():
            for one in value:
                yield from _leaves(one)
        case BaseModel():
            for name in type(value).model_fields:
                yield from _leaves(getattr(value, name))
        case str() | int() | float() if not isinstance(value, bool):
            yield str(value)
        case _:
            return


def _personal(fact: Fact, *, inherited: bool = False) -> Iterator[str]:
    """Give all values that stand in a field marked as personal and in no other."""
    for name, field in type(fact).model_fields.items():
        value = getattr(fact, name)
        extra = field.json_schema_extra
        marked = isinstance(extra, dict) and extra[PERSONAL_KEY] == "yes"
        nested = [value] if isinstance(value, Fact) else value if isinstance(value, tuple) else []
        facts = [one for one in nested if isinstance(one, Fact)]
        if facts:
            for one in facts:
                yield from _personal(one, inherited=inherited)
        elif marked or inherited:
            yield from _leaves(value)


def _open(fact: Fact) -> Iterator[str]:
    """Give all values of fields that are not marked as personal."""
    for name, field in type(fact).model_fields.items():
        value = getattr(fact, name)
        extra = field.json_schema_extra
        marked = isinstance(extra, dict) and extra[PERSONAL_KEY] == "yes"
        nested = [value] if isinstance(value, Fact) else value if isinstance(value, tuple) else []
        facts = [one for one in nested if isinstance(one, Fact)]
        for one in facts:
            yield from _open(one)
        if not facts and not marked:
            yield from _leaves(value)


def test_there_is_an_example_of_every_event() -> None:
    assert {path.parent.name for path in EXAMPLES} == {topic.name for topic in TOPICS}


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_event_has_a_sentence_without_anything_personal(path: Path) -> None:
    fact = _fact(path)
    said = sentence(fact)
    assert said.endswith(".")
    assert said[0].isalnum()
    assert "does not know" not in said
    assert "None" not in said
    assert "()" not in said
    shown = set(_leaves(details(fact)))
    secret = {value for value in _personal(fact) if len(value) > 2} - set(_open(fact))
    assert not [value for value in secret if value in said]
    assert not secret & shown


def test_the_check_above_sees_personal_values() -> None:
    with_personal = {path.parent.name for path in EXAMPLES if any(True for _ in _personal(_fact(path)))}
    assert {"instances.stored.v1", "study.completed.v1", "order.placed.v1"} <= with_personal


@pytest.mark.parametrize("topic", TOPICS, ids=lambda topic: topic.name)
def test_details_never_have_a_field_that_is_personal(topic: Any) -> None:
    marks = {name: field.json_schema_extra[PERSONAL_KEY] for name, field in topic.model.model_fields.items()}
    path = next(path for path in EXAMPLES if path.parent.name == topic.name)
    shown = details(_fact(path))
    assert not {name for name in shown if marks[name] == "yes"}
    assert get_origin(type(shown)) is None
    json.dumps(shown)


def test_long_lists_are_counted() -> None:
    path = next(path for path in EXAMPLES if path.parent.name == "delivery.requested.v1")
    request = _fact(path)
    item = request.items[0]  # type: ignore[attr-defined]
    longer = request.model_copy(update={"items": (item,) * (LONGEST_LIST + 1)})
    assert details(longer)["items"] == {"count": LONGEST_LIST + 1}
    assert f"{LONGEST_LIST + 1} instances" in sentence(longer)


def test_an_event_of_a_newer_release_is_shown_as_unknown() -> None:
    class Newer(Fact):
        pass

    assert "does not know" in sentence(Newer())
    assert "does not know" in sentence(None)
