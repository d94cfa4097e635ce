"""The difference of two definitions says everything that changed, and nothing else."""

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.definition import Definition
from libs.definition.difference import Change, difference, plain

pytestmark = pytest.mark.unit

SITES = st.dictionaries(
    st.sampled_from(["a", "b", "c"]),
    st.fixed_dictionaries(
        {"name": st.sampled_from(["X", "Y"])},
        optional={"tenant": st.sampled_from(["default", "t"]), "link": st.just({"bandwidth": "2Mbit/s"})},
    ),
    min_size=1,
)
NODES = st.dictionaries(
    st.sampled_from(["CT1", "CT.2", "MR"]),
    st.fixed_dictionaries(
        {"site": st.sampled_from(["a", "b"])},
        optional={
            "host": st.sampled_from(["10.0.0.1", "pacs"]),
            "port": st.sampled_from([104, 11112]),
            "from": st.sampled_from(["10.0.0.0/24", ["10.0.0.1", "10.0.1.0/24"]]),
            "tls": st.sampled_from([True, False, {"client": "x"}]),
            "associations": st.sampled_from([2, 3]),
        },
    ),
)
VALUES = st.sampled_from([1, 1.0, True, "1", ["CT", "MR"], ["MR", "CT"]])
RULES = st.lists(
    st.fixed_dictionaries(
        {
            "name": st.sampled_from(["one", "two", "three", "four"]),
            "trigger": st.sampled_from(["instance", "study"]),
            "deliver": st.sampled_from(["x", ["x", "y"]]),
        },
        optional={
            "when": st.sampled_from(["true", "false"]) | st.dictionaries(st.just("InstanceNumber"), VALUES, min_size=1)
        },
    ),
    unique_by=lambda rule: str(rule["name"]),
)
DEFINITIONS = st.fixed_dictionaries(
    {"kivuko": st.just(1), "name": st.sampled_from(["N", "M"]), "sites": SITES},
    optional={
        "nodes": NODES,
        "rules": RULES,
        "timezone": st.sampled_from(["UTC", "Africa/Malabo"]),
        "tests": st.lists(st.fixed_dictionaries({"delivers": st.just(["x"])}), max_size=2),
    },
).map(Definition.model_validate)


def applied(changes: list[Change], old: Definition | None) -> dict[str, Any]:
    """Carry changes out, as a reader of the list would."""
    data = {} if old is None else copy.deepcopy(plain(old))
    for change in changes:
        *way, last = change.path
        part = data
        for step in way:
            part = part.setdefault(step, {})
        if change.kind == "removed":
            assert part.pop(last) == change.old
        elif change.kind == "moved":
            assert [key for key in part[last] if key in change.old] == change.old
        else:
            assert part.get(last) == change.old
            part[last] = change.new
    return {key: value for key, value in data.items() if value != {}}


@settings(deadline=None)
@given(old=st.none() | DEFINITIONS, new=DEFINITIONS)
def test_the_changes_carried_out_on_the_old_give_the_new(old: Definition | None, new: Definition) -> None:
    assert applied(difference(old, new), old) == {key: value for key, value in plain(new).items() if value != {}}


@settings(deadline=None)
@given(DEFINITIONS, DEFINITIONS)
def test_there_is_no_change_exactly_when_both_mean_the_same(one: Definition, two: Definition) -> None:
    same = one.model_dump_json(exclude_defaults=True, by_alias=True)
    assert difference(one, one) == []
    assert difference(one, Definition.model_validate_json(same)) == []
    assert bool(difference(one, two)) == bool(difference(two, one))
    if one != two:
        assert difference(one, two)


def test_what_people_read() -> None:
    before = {
        "kivuko": 1,
        "name": "N",
        "sites": {"a": {"name": "A"}},
        "nodes": {"CT1": {"site": "a", "host": "10.0.0.1"}, "OLD": {"site": "a"}},
        "rules": [{"name": "x", "trigger": "study", "deliver": "p"}, {"name": "y", "trigger": "study", "deliver": "p"}],
    }
    after = copy.deepcopy(before)
    after["nodes"] = {"CT1": {"site": "a", "host": "10.0.0.2", "port": 104}, "MR1": {"site": "a"}}
    after["rules"] = [after["rules"][1], after["rules"][0] | {"priority": "stat"}]  # type: ignore[index]  # it is a list
    changes = difference(Definition.model_validate(before), Definition.model_validate(after))
    assert [str(change) for change in changes] == [
        "~ nodes.CT1.host: 10.0.0.1 -> 10.0.0.2",
        "+ nodes.CT1.port: 104",
        '- nodes.OLD: {"site": "a"}',
        '+ nodes.MR1: {"site": "a"}',
        "+ rules.x.priority: stat",
        "~ rules: order is now y, x",
    ]
    assert changes[0].model_dump(mode="json") == {
        "kind": "changed",
        "path": "nodes.CT1.host",
        "old": "10.0.0.1",
        "new": "10.0.0.2",
    }


def test_a_default_that_is_written_out_is_no_difference() -> None:
    short = Definition.model_validate({"kivuko": 1, "name": "N", "sites": {"a": {"name": "A"}}})
    long = Definition.model_validate(
        {"kivuko": 1, "name": "N", "timezone": "UTC", "rules": [], "sites": {"a": {"name": "A", "tenant": "default"}}}
    )
    assert difference(short, long) == []
    assert difference(None, short) != []


def test_one_and_true_are_not_the_same() -> None:
    def with_value(value: object) -> Definition:
        rule = {"name": "x", "trigger": "study", "deliver": "p", "when": {"InstanceNumber": value}}
        return Definition.model_validate({"kivuko": 1, "name": "N", "sites": {}, "rules": [rule]})

    assert difference(with_value(1), with_value(True))
    assert difference(with_value(1), with_value(1.0))
