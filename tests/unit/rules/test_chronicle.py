"""What is recorded of a study: kinds of instances, what is left out of them, versions, routes."""

import json
from datetime import timedelta
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from contracts.delivery import DeliveryItem
from contracts.fact import Attributes
from contracts.instances import StoredInstance
from services.rules import chronicle, route, transcript
from services.rules.chronicle import MOST_KINDS, MOST_VERSIONS, Record, Version
from services.rules.plan import Known, Requested, Wish
from services.rules.route import Route
from tests.unit.rules.scene import CT1, NOW, PACS, instance

STUDY_ATTRIBUTES: Attributes = {"Modality": "CT"}


def known(number: int, source: Any = CT1, **attributes: Any) -> Known:
    one: StoredInstance = instance(number)
    item = DeliveryItem.model_validate(one.model_dump(exclude={"attributes", "series_instance_uid", "replaces"}))
    return Known(number, item, one.series_instance_uid, one.received_at, source, attributes, "headers")


def version(*chosen: Known, number: int = 1, before: Record | None = None, **more: Any) -> Version:
    last = max((one.received_at for one in chosen), default=NOW)
    return chronicle.version(
        *(number, NOW, 7, last, CT1, STUDY_ATTRIBUTES, chosen),
        named=lambda _: {},
        more={},
        looked_for=(),
        before=before,
        **more,
    )


def test_instances_that_say_the_same_are_one_kind() -> None:
    made = version(known(1, Rows=512), known(2, Rows=512), known(3, Rows=256), known(4, PACS, Rows=512))
    assert [(kind.source, kind.attributes, kind.count, kind.size) for kind in made.kinds] == [
        (CT1, {"Rows": 512}, 2, 2003),
        (CT1, {"Rows": 256}, 1, 1003),
        (PACS, {"Rows": 512}, 1, 1004),
    ]
    assert (made.count, made.size) == (4, 4010)
    assert made.left == {}


def test_what_nearly_every_instance_says_differently_is_left_out_and_its_smallest_value_kept() -> None:
    chosen = [known(number, InstanceNumber=number, Rows=256 + 256 * (number % 2)) for number in range(1, 60)]
    made = version(*chosen)
    assert {kind.attributes["Rows"] for kind in made.kinds} == {256, 512}
    assert all("InstanceNumber" not in kind.attributes for kind in made.kinds)
    assert made.left == {"InstanceNumber": 1}


def test_of_attributes_that_vary_together_the_most_varied_is_left_out() -> None:
    chosen = [known(number, A=number % 7, B=number % 11, C=number % 3) for number in range(1, 200)]
    made = version(*chosen)
    assert made.left.keys() == {"B"}
    assert len(made.kinds) == 21


def test_arrivals_are_kept_by_the_minute() -> None:
    made = version(known(1), known(2), known(61))
    assert [(count, size) for _, count, size in made.kinds[0].arrivals] == [(2, 2003), (1, 1061)]


def test_an_instance_is_new_in_the_first_version_that_it_is_in() -> None:
    first = version(known(1), known(2))
    later = version(known(1), known(2), known(3), number=2, before=Record((first,), {}))
    assert {(kind.since, kind.count) for kind in later.kinds} == {(1, 2), (2, 1)}


def test_of_many_versions_the_first_and_the_last_are_kept() -> None:
    found: Record | None = None
    for number in range(1, 20):
        found = chronicle.added(found, version(known(number), number=number), {})
    assert found is not None
    assert len(found.versions) == MOST_VERSIONS
    assert [one.number for one in found.versions] == [1, *range(13, 20)]


def test_bytes_count_in_the_hour_in_which_they_were_asked_for() -> None:
    wish = Wish("routine", None, ("all",))
    one, two = known(1), known(2)
    decided = NOW + timedelta(hours=2)
    routes = route.routed(
        {"pacs": Route("bulk", ("",), {1: (5, 50)})},
        [Requested(one, "pacs", wish), Requested(two, "pacs", Wish("stat", "anon", ("ct",)))],
        asked=[(1, "pacs")],
        arrivals=route.arrival,
        is_new=lambda _: True,
        decided_at=decided,
    )
    hours = {1: (5, 50), route.hour(NOW): (1, 1001), route.hour(decided): (1, 1002)}
    assert routes == {"pacs": Route("stat", ("", "anon"), hours)}
    assert (routes["pacs"].count, routes["pacs"].size) == (7, 2053)


words = st.sampled_from(["", "CT", "SR", "ñ"])
values = st.one_of(words, st.integers(0, 30), st.lists(words, max_size=2))
many = st.lists(st.dictionaries(st.sampled_from("ABCDE"), values, max_size=5), min_size=1, max_size=60)


@given(many)
def test_nothing_is_lost_and_what_is_written_is_read(said: list[dict[str, Any]]) -> None:
    chosen = [known(number, **attributes) for number, attributes in enumerate(said, start=1)]
    made = version(*chosen, unhealthy=frozenset({"pacs"}), lifted=frozenset({"few"}))
    assert len(made.kinds) <= MOST_KINDS
    assert made.count == len(chosen)
    assert made.size == sum(one.item.size for one in chosen)
    for kind in made.kinds:
        fitting = [one for one in chosen if kind.attributes.items() <= one.attributes.items()]
        assert len(fitting) >= kind.count
    for keyword in {keyword for attributes in said for keyword in attributes}:
        assert keyword in made.left or any(keyword in kind.attributes for kind in made.kinds)
    routes = {"pacs": Route("stat", ("", "anon"), {10: (1, 2)}, held=True)}
    record = Record((made,), routes)
    assert transcript.from_json(json.loads(json.dumps(transcript.as_json(record)))) == record
