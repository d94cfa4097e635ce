from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.definition import Definition
from services.egress.failover import alternate, unfit

NAMES = "abcd"


def definition(destinations: dict[str, dict[str, Any]]) -> Definition:
    return Definition.model_validate(
        {
            "kivuko": 1,
            "name": "test",
            "sites": {"a": {"name": "A"}},
            "nodes": {key.upper(): {"site": "a", "host": "127.0.0.1", "port": 104} for key in (*NAMES, "ct1")},
            "transforms": {"t": {"set": {"PatientName": "X"}}, "u": {"set": {"PatientName": "Y"}}},
            "destinations": {key: {"node": key.upper()} | value for key, value in destinations.items()},
        }
    )


@pytest.mark.parametrize(
    ("to", "source", "said"),
    [
        ("b", "CT1", None),
        ("a", "CT1", "its own destination"),
        ("nowhere", "CT1", "no destination"),
        ("b", "B", "the study came from node B"),
    ],
)
def test_a_study_goes_neither_back_nor_nowhere(to: str, source: str, said: str | None) -> None:
    found = unfit(definition({"a": {}, "b": {}}), "a", to, source)
    assert (found is None) == (said is None)
    assert (said or "") in (found or "")


@pytest.mark.parametrize(
    ("mine", "other", "fits"),
    [(None, None, True), (None, "t", True), ("t", "t", True), ("t", None, False), ("t", "u", False)],
)
def test_a_transform_is_not_got_around(mine: str | None, other: str | None, fits: bool) -> None:
    known = definition({"a": {"transform": mine}, "b": {"transform": other}})
    assert (unfit(known, "a", "b", "CT1") is None) == fits


def test_what_left_the_definition_may_have_had_a_transform() -> None:
    assert "nobody knows" in str(unfit(definition({"b": {}}), "a", "b", "CT1"))


links = st.fixed_dictionaries({name: st.none() | st.sampled_from(NAMES) for name in NAMES})
transforms = st.fixed_dictionaries({name: st.sampled_from([None, "t"]) for name in NAMES})


@given(links, transforms, st.sets(st.sampled_from(NAMES)), st.sampled_from("ABCD"))
def test_the_alternate_is_the_first_in_reach_that_may_have_it(
    failover: dict[str, str | None], transform: dict[str, str | None], in_reach: set[str], source: str
) -> None:
    known = definition({name: {"failover": failover[name], "transform": transform[name]} for name in NAMES})
    found = alternate(known, "a", source, in_reach.__contains__)
    chain, at = ["a"], failover["a"]
    while at is not None and at not in chain:
        chain.append(at)
        at = failover[at]
    fitting = [to for to in chain[1:] if to in in_reach and unfit(known, "a", to, source) is None]
    assert found == (fitting[0] if fitting else None)
