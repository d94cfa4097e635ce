"""What is done with other content under a known UID."""

from datetime import UTC, datetime, timedelta
from itertools import permutations
from typing import Any, get_args

from hypothesis import given
from hypothesis import strategies as st

from contracts.definition import Definition, SameUid
from services.ingest.conflict import Content, decide, policy

NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)
policies = st.sampled_from(get_args(SameUid))
contents = st.builds(
    Content,
    study_uid=st.sampled_from(["1.2", "1.3"]),
    content_hash=st.sampled_from(["a" * 64, "b" * 64, "c" * 64]),
    received_at=st.integers(0, 3).map(lambda seconds: NOON + timedelta(seconds=seconds)),
)


def network(**more: Any) -> Definition:
    """Make a definition with a node that has a word of its own."""
    nodes = {"CT1": {"site": "luba"}, "MR1": {"site": "luba", "same-uid": "new-version"}}
    return Definition.model_validate(
        {"kivuko": 1, "name": "test", "sites": {"luba": {"name": "Luba"}}, "nodes": nodes, **more}
    )


def test_the_node_s_word_counts_before_the_network_s() -> None:
    assert policy(None, "CT1") == "quarantine"
    assert policy(network(), "CT1") == "quarantine"
    assert policy(network(**{"same-uid": "keep-first"}), "CT1") == "keep-first"
    assert policy(network(**{"same-uid": "keep-first"}), "MR1") == "new-version"
    assert policy(network(**{"same-uid": "keep-first"}), "unknown") == "keep-first"


@given(contents, contents, policies)
def test_the_same_bytes_are_nothing_new_and_no_instance_moves_to_another_study(
    kept: Content, arrived: Content, wanted: SameUid
) -> None:
    outcome = decide(kept, arrived, wanted)
    assert (outcome == "duplicate") == (kept.content_hash == arrived.content_hash)
    if kept.content_hash != arrived.content_hash:
        if kept.study_uid != arrived.study_uid:
            assert outcome == "quarantine"
        else:
            assert outcome in (wanted, "superseded")
            assert wanted in (outcome, "new-version")


@given(st.lists(contents.filter(lambda content: content.study_uid == "1.2"), min_size=1, max_size=4, unique=True))
def test_the_version_that_was_received_last_stands_in_any_order_of_indexing(versions: list[Content]) -> None:
    distinct = list({version.content_hash: version for version in versions}.values())

    def standing(order: tuple[Content, ...]) -> Content:
        kept = order[0]
        for arrived in order[1:]:
            if decide(kept, arrived, "new-version") == "new-version":
                kept = arrived
        return kept

    assert len({standing(order) for order in permutations(distinct)}) == 1
