"""What a destination's word means, and when it is asked."""

from datetime import UTC, datetime, time, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.egress.comparison import Last, nightly
from services.egress.confirmation import Next, Patience, Sighting, missed, missing, unconfirmed
from services.egress.delivery import Tally

pytestmark = pytest.mark.unit
NOW = datetime(2026, 11, 20, 10, tzinfo=UTC)
uids = st.sets(st.sampled_from([f"1.2.{n}" for n in range(8)]))


@given(st.integers(0, 0xFFFF), st.integers(1, 9), st.integers(1, 5))
def test_only_what_sending_can_mend_is_sent_again_and_not_without_end(reason: int, misses: int, allowed: int) -> None:
    found = missed(reason, misses, allowed)
    assert found.status == f"{reason:04X}"
    if found.follows is Next.SEND:
        assert reason in (0x0110, 0x0112, 0x0213)
        assert misses < allowed
    if found.follows is Next.ASK:
        assert reason == 0x0131


@given(uids, st.none() | uids.map(frozenset), st.none() | st.integers(0, 9))
def test_missing_is_only_what_the_destination_says(
    sent: set[str], instances: frozenset[str] | None, number: int | None
) -> None:
    found = missing(sent, Sighting(instances, number))
    if instances is not None:
        assert found == sent - instances
    elif number is None or number > len(sent):
        assert found is None
    else:
        assert found is not None
        # Nobody knows which, so none of them is taken for granted.
        assert found == (set() if number == len(sent) else sent)


@given(st.integers(0, 5), st.integers(0, 5), st.integers(0, 5), st.booleans())
def test_done_needs_what_the_definition_asks_for(sent: int, committed: int, found: int, done: bool) -> None:
    committed, found = min(sent, committed), min(sent, max(committed, found))
    tally = Tally(instances=sent, sent=sent, committed=committed, found=found)

    def say(confirm: str) -> str | None:
        return unconfirmed(confirm, "d", tally, done=done, next_at=None, problem=None)  # type: ignore[arg-type]  # drawn

    assert say("store") is None
    assert (say("commit") is None) == (done or committed == sent)
    assert (say("query") is None) == (done or found == sent)


def test_the_waits_grow_up_to_their_cap() -> None:
    patience = Patience(3600, 86_400)
    times = [patience.again(asks, NOW) for asks in range(1, 9)]
    assert times[0] == NOW + timedelta(hours=1)
    assert times[-1] == NOW + timedelta(days=1)
    assert all(one <= other for one, other in pairwise(times))
    assert times[-1] < patience.out_of_reach(NOW)


@given(st.integers(0, 20_000), st.integers(0, 20_000), st.booleans(), st.booleans())
def test_once_for_each_night_and_no_night_is_left_out(minutes: int, before: int, ended: bool, covered: bool) -> None:
    now = NOW + timedelta(minutes=minutes)
    last = Last(now - timedelta(minutes=before), ended=ended, covered_until=NOW if covered else None)
    found = nightly(now, time(2, 30), "Africa/Malabo", 1, last)
    night = now.astimezone(UTC).replace(hour=1, minute=30, second=0, microsecond=0)
    night -= timedelta(days=1) if night > now else timedelta(0)
    young = last.began_at > now - timedelta(hours=1)
    assert (found is None) == (last.began_at >= night and (ended or young))
    if found is not None:
        # What was sent just now, and what others could not compare, is not forgotten.
        assert found.until == now - timedelta(minutes=10)
        assert found.until - found.since >= timedelta(days=1)
        assert not covered or found.since <= NOW


def test_the_first_time_is_at_once() -> None:
    assert nightly(NOW, time(2, 30), "UTC", 1, None) is not None
