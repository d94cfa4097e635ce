import random
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.delivery import DeliveryItem
from contracts.manifest import set_hash
from contracts.routing import PRIORITIES
from libs.definition.ruleset import Match
from libs.dicom.excerpt import pick
from services.rules.plan import (
    Known,
    Requested,
    Wish,
    aggregate,
    of_version,
    united,
    wishes,
    within_sites,
    without_loops,
)
from services.rules.request import requests
from services.rules.tally import Tally
from tests.unit.rules.scene import CT1, NOW, PACS, STUDY


def known(number: int, node: str = "CT1") -> Known:
    item = DeliveryItem(
        sop_instance_uid=f"1.2.{number}",
        sop_class_uid="1.2",
        transfer_syntax_uid="1.2.840.10008.1.2",
        content_hash=f"{number:064x}",
        object_key=f"{number}.dcm",
        size=1,
    )
    source = CT1 if node == "CT1" else PACS
    return Known(number, item, "1.2", NOW + timedelta(seconds=number), source, {}, "headers")


def content(uid: str, letter: str, second: int) -> Known:
    one = known(1)
    item = one.item.model_copy(update={"sop_instance_uid": uid, "content_hash": letter * 64})
    return replace(one, id=second, item=item, received_at=NOW + timedelta(seconds=second))


def match(name: str, *destinations: str, priority: Any = "routine", transform: str | None = None) -> Match:
    return Match(name, destinations, destinations, priority, transform, {})


wish = st.builds(
    Wish,
    st.sampled_from(PRIORITIES),
    st.sampled_from([None, "a", "b"]),
    st.lists(st.sampled_from("xyz"), min_size=1, unique=True).map(tuple),
)


@given(wish, wish)
def test_of_two_wishes_the_higher_priority_wins_whichever_comes_first(one: Wish, other: Wish) -> None:
    both = one.merged(other)
    assert PRIORITIES.index(both.priority) == min(PRIORITIES.index(one.priority), PRIORITIES.index(other.priority))
    assert set(both.rules) == {*one.rules, *other.rules}
    assert both.priority == other.merged(one).priority
    assert (both.transform is None) == (other.merged(one).transform is None)


@given(wish)
def test_the_same_wish_twice_is_one(one: Wish) -> None:
    assert one.merged(one) == one


def test_of_equal_priorities_a_transform_counts() -> None:
    assert Wish("stat", None, ("a",)).merged(Wish("stat", "hide", ("b",))).transform == "hide"


def test_wishes_by_destination() -> None:
    found, notes = wishes([match("a", "pacs", "hub"), match("b", "pacs", priority="stat")])
    assert found == {"pacs": Wish("stat", None, ("a", "b")), "hub": Wish("routine", None, ("a",))}
    assert notes == []


def test_no_loops() -> None:
    made, notes = without_loops(
        [known(1), known(2, "PACS")], {"pacs": Wish("stat", None, ("a",))}, lambda _d, n: n == "PACS"
    )
    assert [one.instance.id for one in made] == [1]
    assert notes == ["destination `pacs` doesn't get back what came from its own node"]


@given(st.sets(st.integers(1, 40), min_size=1), st.sets(st.integers(41, 60)))
def test_a_version_is_found_among_later_instances_and_never_without_all_its_own(own: set[int], later: set[int]) -> None:
    members = [known(number) for number in own]
    digest = set_hash(one.identity for one in members)
    last = max(one.received_at for one in members)
    found = of_version([*(known(number) for number in later), *members], len(own), digest, last)
    assert found is not None
    assert {one.id for one in found} == own
    assert of_version([*(known(number) for number in later), *members[1:]], len(own), digest, last) is None


@given(st.lists(st.tuples(st.integers(1, 30), st.sampled_from(["pacs", "hub"]), wish), unique_by=lambda one: one[:2]))
def test_requests_say_everything_once_and_close_each_destination_once(given_: list[tuple[int, str, Wish]]) -> None:
    made = [Requested(known(number), destination, one) for number, destination, one in given_]
    events = requests(STUDY, 1, made, closing=3)
    said = [(item.sop_instance_uid, event.destination, event.transform) for event in events for item in event.items]
    assert sorted(said, key=str) == sorted(
        ((one.instance.item.sop_instance_uid, one.destination, one.wish.transform) for one in made), key=str
    )
    for destination in {one.destination for one in made}:
        mine = [event for event in events if event.destination == destination]
        expected = sum(one.destination == destination for one in made)
        assert [(event.study_version, event.expected_count) for event in mine] == [
            *[(None, None)] * (len(mine) - 1),
            (3, expected),
        ]
        identities = {one.instance.identity for one in made if one.destination == destination}
        assert [event.expected_hash for event in mine if event.study_version] == [set_hash(identities)]


def test_what_was_requested_keeps_its_transform() -> None:
    before = Requested(known(1), "pacs", Wish("routine", None, ("a",)))
    now = Requested(known(1), "pacs", Wish("stat", "x", ("b",)))
    both, notes = united([before], [now])
    assert both == [Requested(known(1), "pacs", Wish("stat", None, ("a", "b")))]
    assert notes == ["destination `pacs` was requested with another transform before, which stands for those instances"]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([], None),
        (["B", "A", "B"], "A"),
        ([3, 1.5], 1.5),
        ([["A", "B"], ["C", "A"], "D"], ["A", "B", "C", "D"]),
        (["x", 1], 1),
    ],
)
def test_a_study_value_of_instance_values(values: list[Any], expected: Any) -> None:
    assert aggregate(values) == expected
    assert aggregate(reversed(values)) == expected


def test_attributes_are_picked_from_a_full_header() -> None:
    document = {
        "00180081": {"vr": "DS", "keyword": "EchoTime", "Value": [90.0]},
        "00180020": {"vr": "CS", "keyword": "ScanningSequence", "Value": ["SE", "IR"]},
        "00180082": {"vr": "DS", "keyword": "InversionTime"},
        "00091001": {"vr": "LO", "Value": ["private"]},
    }
    assert pick(document, {"EchoTime", "ScanningSequence", "InversionTime"}) == {
        "EchoTime": 90.0,
        "ScanningSequence": ["SE", "IR"],
    }


@given(
    st.lists(st.tuples(st.sampled_from(["1.1", "1.2", "1.3"]), st.sampled_from("abc")), min_size=1, max_size=8),
    st.randoms(use_true_random=False),
)
def test_every_version_is_found_though_contents_took_the_place_of_others(
    came: list[tuple[str, str]], luck: random.Random
) -> None:
    index: dict[str, str] = {}
    everything: dict[tuple[str, str], Known] = {}
    for second, (uid, letter) in enumerate(came):
        if index.get(uid) != letter:
            everything[uid, letter] = content(uid, letter, second)
        index[uid] = letter
    shuffled = list(everything.values())
    luck.shuffle(shuffled)
    pairs = {(uid, letter * 64) for uid, letter in index.items()}
    found = of_version(shuffled, len(index), set_hash(pairs), NOW + timedelta(seconds=len(came)))
    assert found is not None
    assert {one.identity for one in found} == pairs
    assert of_version(shuffled, len(index), "0" * 64, NOW + timedelta(seconds=len(came))) is None


def test_the_version_before_is_found_though_its_successor_s_content_is_known() -> None:
    first, second = content("1.1", "a", 1), content("1.1", "b", 2)
    assert of_version([second, first], 1, set_hash([first.identity]), first.received_at) == [first]
    assert of_version([second, first], 1, set_hash([second.identity]), second.received_at) == [second]


def test_a_partner_that_is_to_be_told_is_a_destination_of_its_own() -> None:
    """Of the same name as a destination it is another one; the rule's transform holds for it too."""
    found, notes = wishes(
        [
            replace(match("one", "reader", transform="ids"), notify=("reader", "other")),
            replace(match("two", "archive", priority="stat", transform="ids"), notify=("reader",)),
        ]
    )
    assert set(found) == {"reader", "archive", "partner:reader", "partner:other"}
    assert found["partner:reader"] == Wish("stat", "ids", ("one", "two"))
    assert found["partner:other"] == Wish("routine", "ids", ("one",))
    assert notes == []


def test_a_partner_gets_nothing_of_a_site_that_is_not_among_its_own() -> None:
    wanted = Wish("routine", None, ("r",))
    near, far = known(1), replace(known(2), source=CT1.model_copy(update={"site": "far"}))
    made = [Requested(one, to, wanted) for one in (near, far) for to in ("archive", "partner:reader")]
    going, notes = within_sites(made, lambda partner, site: (partner, site) == ("reader", CT1.site))
    assert [(one.instance.id, one.destination) for one in going] == [
        (1, "archive"),
        (1, "partner:reader"),
        (2, "archive"),
    ]
    assert notes == ["partner `reader` may not get what other sites than its own sent"]
    assert within_sites(made, lambda _partner, _site: True) == (made, [])


def test_no_copy_waits_for_a_partner() -> None:
    wanted = Wish("routine", None, ("r",))
    everything = [Requested(known(1), to, wanted) for to in ("archive", "partner:reader")]
    tally = Tally()
    tally.add([replace(match("r", "archive"), notify=("reader",))], 1, problems=(), notes=())
    decided = tally.decided("study", STUDY, 1, CT1, 1, everything)
    assert decided.destinations == ("archive",)
    assert decided.matches[0].notify == ("reader",)
