"""Generated files are current, nothing published is broken, every example validates."""

import copy
import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, ValidationError

from contracts import generate
from contracts.compatibility import breaking_changes
from contracts.envelope import Event
from contracts.fact import PERSONAL_KEY, Fact
from contracts.manifest import set_hash
from contracts.partner import PARTNER_TOPICS
from contracts.topics import SERVICES, TAKES_ALL, TOPICS, Topic

pytestmark = pytest.mark.unit
ALL_TOPICS = (*TOPICS, *PARTNER_TOPICS)
EXAMPLES = sorted(generate.EXAMPLES.glob("*/*.json"))


def facts(model: type[BaseModel]) -> set[type[BaseModel]]:
    """Collect a model and all models inside it."""
    found: set[type[BaseModel]] = {model}
    for field in model.model_fields.values():
        for part in _parts(field.annotation):
            if isinstance(part, type) and issubclass(part, BaseModel) and part not in found:
                found |= facts(part)
    return found


def _parts(annotation: Any) -> list[Any]:
    inner = getattr(annotation, "__args__", ())
    return [annotation, *(part for one in inner for part in _parts(one))]


def test_generated_files_are_what_the_models_say() -> None:
    assert generate.differences() == []


def test_a_stale_generated_file_is_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generate, "SCHEMAS", tmp_path)
    monkeypatch.setattr(generate, "HERE", tmp_path)
    (tmp_path / "stray.json").write_text("{}")
    monkeypatch.setattr(Path, "relative_to", lambda self, _: self)
    assert len(generate.differences()) == len(TOPICS) + len(PARTNER_TOPICS) + 3


def test_every_topic_is_published_and_nothing_published_is_broken() -> None:
    assert {path.stem for path in generate.PUBLISHED.glob("*.json")} == {topic.name for topic in ALL_TOPICS}
    assert generate.incompatibilities() == []


@pytest.mark.parametrize("topic", ALL_TOPICS, ids=lambda topic: topic.name)
def test_rows_name_known_services_and_versions(topic: Topic) -> None:
    assert set(topic.producers) | set(topic.consumers) <= set(SERVICES)
    assert topic.producers
    assert topic.name.rpartition(".v")[2].isdigit()
    assert not set(topic.consumers) & set(TAKES_ALL)
    assert any(generate.EXAMPLES.joinpath(topic.name).glob("*.json")), "a topic without an example"


@pytest.mark.parametrize("topic", ALL_TOPICS, ids=lambda topic: topic.name)
def test_each_field_says_whether_it_holds_personal_data(topic: Topic) -> None:
    for model in facts(topic.model) | {Event}:
        assert issubclass(model, Fact)
        for name, field in model.model_fields.items():
            extra = field.json_schema_extra
            assert isinstance(extra, dict), f"{model.__name__}.{name} says nothing of personal data"
            assert extra[PERSONAL_KEY] in {"no", "pseudonym", "yes"}
            assert field.description, f"{model.__name__}.{name} has no description"


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_examples_validate_against_model_and_both_schemas(path: Path) -> None:
    document = json.loads(path.read_text())
    [topic] = [each for each in ALL_TOPICS if each.type == document["type"]]
    assert topic.name == path.parent.name
    for folder in (generate.SCHEMAS, generate.PUBLISHED):
        schema = json.loads((folder / f"{topic.name}.json").read_text())
        jsonschema.Draft202012Validator.check_schema(schema)
        jsonschema.validate(document, schema, format_checker=jsonschema.FormatChecker())
    event = Event[topic.model].model_validate(document)  # type: ignore[name-defined]
    assert Event[topic.model].model_validate_json(event.model_dump_json()) == event  # type: ignore[name-defined]


@pytest.mark.parametrize("path", EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_an_example_without_a_required_field_is_refused(path: Path) -> None:
    document = json.loads(path.read_text())
    [topic] = [each for each in ALL_TOPICS if each.type == document["type"]]
    schema = json.loads((generate.SCHEMAS / f"{topic.name}.json").read_text())
    for name in schema["required"]:
        broken = {key: value for key, value in document.items() if key != name}
        with pytest.raises(ValidationError):
            Event[topic.model].model_validate(broken)  # type: ignore[name-defined]
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(broken, schema)


def _schema() -> dict[str, Any]:
    schema: dict[str, Any] = json.loads((generate.SCHEMAS / "delivery.requested.v1.json").read_text())
    return schema


def test_a_new_optional_field_is_compatible() -> None:
    changed = _schema()
    changed["$defs"]["DeliveryItem"]["properties"]["note"] = {"type": "string"}
    assert breaking_changes(_schema(), changed) == []


@pytest.mark.parametrize("change", ["removed", "required", "optional", "retyped", "narrowed", "widened"])
def test_any_other_change_is_not(change: str) -> None:
    changed = copy.deepcopy(_schema())
    item = changed["$defs"]["DeliveryItem"]
    match change:
        case "removed":
            del item["properties"]["size"]
        case "required":
            item["properties"]["note"] = {"type": "string"}
            item["required"].append("note")
        case "optional":
            item["required"].remove("size")
        case "retyped":
            item["properties"]["size"]["type"] = "string"
        case "narrowed":
            item["properties"]["object_key"]["maxLength"] = 8
        case _:
            changed["$defs"]["DeliveryRequested"]["properties"]["priority"]["enum"].append("later")
    assert breaking_changes(_schema(), changed) != []


def test_asyncapi_names_every_topic_and_refers_to_files_that_exist() -> None:
    document = yaml.safe_load((generate.HERE / "asyncapi.yaml").read_text())
    assert document["asyncapi"] == "3.0.0"
    messages = document["components"]["messages"]
    assert {message["name"] for message in messages.values()} == {topic.type for topic in ALL_TOPICS}
    for message in messages.values():
        assert (generate.HERE / message["payload"]["schema"]["$ref"]).exists()
    for operation in document["operations"].values():
        assert operation["channel"]["$ref"].removeprefix("#/channels/") in document["channels"]


@given(
    st.lists(st.tuples(st.from_regex(r"[0-9](\.[0-9]){1,5}", fullmatch=True), st.sampled_from(["a" * 64, "b" * 64])))
)
def test_set_hash_knows_no_order_and_no_repeats(pairs: list[tuple[str, str]]) -> None:
    assert set_hash(pairs) == set_hash([*reversed(pairs), *pairs])
    assert set_hash(pairs) != set_hash([*pairs, ("2.9.9.9.9.9.9", "c" * 64)])
