"""Topic matching."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.messaging.topic import matches

pytestmark = pytest.mark.unit

WORDS = st.sampled_from(["study", "completed", "v1", "", "a"])
KEYS = st.lists(WORDS, max_size=5).map(".".join)
PATTERNS = st.lists(st.one_of(WORDS, st.sampled_from(["*", "#"])), max_size=6).map(".".join)


def by_definition(pattern: list[str], key: list[str]) -> bool:
    if not pattern:
        return not key
    first, rest = pattern[0], pattern[1:]
    if first == "#":
        return any(by_definition(rest, key[i:]) for i in range(len(key) + 1))
    return bool(key) and first in ("*", key[0]) and by_definition(rest, key[1:])


@pytest.mark.parametrize(
    ("pattern", "key", "taken"),
    [
        ("study.#", "study", True),
        ("study.#", "study.completed.v1", True),
        ("study.#", "studying", False),
        ("#", "", True),
        ("#", "anything.at.all", True),
        ("*", "", False),
        ("*", "one", True),
        ("*", "one.two", False),
        ("study.*.v1", "study.completed.v1", True),
        ("study.*.v1", "study.v1", False),
        ("#.v1", "v1", True),
        ("#.v1.#", "study.completed.v1.tenant.site", True),
        ("a.*", "a.", True),
        ("", "", True),
        ("", "a", False),
        ("study.completed.v1.#", "study.completed.v10.tenant", False),
    ],
)
def test_examples(pattern: str, key: str, taken: bool) -> None:
    assert matches(pattern, key) is taken


@given(PATTERNS, KEYS)
def test_agrees_with_the_definition(pattern: str, key: str) -> None:
    expected = by_definition(pattern.split(".") if pattern else [], key.split(".") if key else [])
    assert matches(pattern, key) is expected


@given(KEYS)
def test_a_key_without_wildcards_is_a_pattern_for_itself_only(key: str) -> None:
    assert matches(key, key)
    assert not matches(key, f"{key}.more")
