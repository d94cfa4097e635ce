import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.performed import NOTHING, Performed, Step, performed

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("steps", "kept", "expected"),
    [
        ([], {"a": 2}, NOTHING),
        ([Step("in-progress")], {}, Performed(running=1)),
        ([Step("completed", 3, {"a": 2, "b": 1})], {"a": 2, "b": 1}, Performed(0, 3, 0)),
        ([Step("completed", 3, {"a": 2, "b": 1})], {"a": 1}, Performed(0, 3, 2)),
        # A series that was made later takes no other's place.
        ([Step("completed", 3, {"a": 2, "b": 1})], {"a": 1, "c": 9}, Performed(0, 3, 2)),
        # One that says numbers only.
        ([Step("completed", 3)], {"a": 1, "c": 1}, Performed(0, 3, 1)),
        ([Step("completed", 3), Step("discontinued", 1, {"a": 1})], {"a": 1, "c": 2}, Performed(0, 4, 1)),
        # An append: both count.
        ([Step("completed", 2, {"a": 2}), Step("completed", 1, {"a": 1})], {"a": 2}, Performed(0, 3, 1)),
        ([Step("discontinued", 0), Step("in-progress")], {}, Performed(1, 0, 0)),
        # Of several studies: it does not say what was made of this one.
        ([Step("completed")], {"a": 1}, NOTHING),
    ],
)
def test_what_was_made_against_what_is_there(steps: list[Step], kept: dict[str, int], expected: Performed) -> None:
    assert performed(steps, kept) == expected


series = st.dictionaries(st.sampled_from("abc"), st.integers(0, 5), min_size=1)


@given(st.lists(series, max_size=3), series)
def test_nothing_is_missing_once_all_is_there_and_each_instance_that_lacks_is(
    said: list[dict[str, int]], less: dict[str, int]
) -> None:
    steps = [Step("completed", sum(each.values()), each) for each in said]
    whole = {uid: sum(each.get(uid, 0) for each in said) for uid in "abc"}
    assert performed(steps, whole).missing == 0
    there = {uid: max(0, count - less.get(uid, 0)) for uid, count in whole.items()}
    found = performed(steps, there)
    assert found.missing == sum(whole.values()) - sum(there.values())
    assert found.instances == sum(whole.values())
