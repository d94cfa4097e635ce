"""What became of a study, as its timeline tells."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.cli.journey import Entry, finished, journeys

pytestmark = pytest.mark.unit


def entry(second: int, event: str, **details: object) -> Entry:
    """Make an entry of a timeline."""
    return {"time": f"2026-01-02T03:04:{second:02}+00:00", "event": event, "details": details}


WHOLE = [
    entry(1, "instances.stored.v1"),
    entry(2, "delivery.requested.v1", destination="archive", rules=["all"]),
    entry(4, "study.completed.v1"),
    entry(5, "routing.decided.v1", trigger="study"),
    entry(6, "delivery.requested.v1", destination="archive", rules=["all", "CT"]),
    entry(6, "delivery.requested.v1", destination="reader", rules=["CT"]),
    entry(
        8, "delivery.completed.v1", destination="archive", instance_count=3, completed_at="2026-01-02T03:04:08+00:00"
    ),
    entry(9, "delivery.completed.v1", destination="reader", instance_count=1, completed_at="2026-01-02T03:04:09+00:00"),
]


@given(missing=st.sampled_from(range(2, len(WHOLE))))
def test_a_study_is_finished_only_when_every_step_is_there(missing: int) -> None:
    assert finished(WHOLE)
    rest = WHOLE[:missing] + WHOLE[missing + 1 :]
    # One request for the archive is enough to know that it was asked for.
    still = missing == 4
    if WHOLE[missing]["event"] == "delivery.requested.v1" and not still:
        assert not finished(rest)
    else:
        assert finished(rest) is still


def test_a_study_that_no_rule_wants_is_finished_when_that_is_decided() -> None:
    assert finished([WHOLE[0], WHOLE[2], WHOLE[3]])
    assert not finished([WHOLE[0], WHOLE[2]])


def test_journeys_name_rules_once_and_count_from_the_arrival() -> None:
    archive, reader = journeys("1.2.3", WHOLE)
    assert (archive.destination, archive.rule, archive.instances, archive.seconds) == ("archive", "all, CT", 3, 7.0)
    assert (reader.destination, reader.rule, reader.instances, reader.seconds) == ("reader", "CT", 1, 8.0)
