from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contracts.definition import Definition
from services.egress.budget import Caps, Limit, caps, next_day, startable, today

pytestmark = pytest.mark.unit

ZONES = ["UTC", "Africa/Malabo", "Asia/Kathmandu", "Europe/Berlin", "Africa/Cairo", "America/Havana", "Pacific/Chatham"]
instants = st.datetimes(datetime(2020, 1, 1), datetime(2026, 12, 31), timezones=st.just(UTC))  # noqa: DTZ001 - given a zone
limits = st.none() | st.integers(1, 10**12)
bytes_sent = st.integers(0, 10**13)


def network(destination: dict[str, Any], link: dict[str, Any] | None = None) -> Definition:
    return Definition.model_validate(
        {
            "kivuko": 1,
            "name": "test",
            "sites": {"bata": {"name": "Bata"} | ({} if link is None else {"link": link})},
            "nodes": {"PACS": {"site": "bata", "host": "10.0.0.5", "port": 104}},
            "destinations": {"d": destination, "all": {"group": ["d"]}},
        }
    )


def test_a_destination_has_its_own_caps_and_shares_the_line_of_its_site() -> None:
    definition = network(
        {"node": "PACS", "bandwidth": "1Mbit/s", "budget": "30GB/day"}, {"bandwidth": "2Mbit/s", "budget": "20GB/day"}
    )
    found = caps(definition, "d")
    assert found == Caps(Limit(10**6, 30 * 10**9), "bata", Limit(2 * 10**6, 20 * 10**9))
    assert found.bandwidth == 10**6
    assert found.left(5 * 10**9, 0) == 20 * 10**9
    assert found.left(15 * 10**9, 2 * 10**9) == 15 * 10**9


def test_what_is_not_said_is_no_limit() -> None:
    for definition in (network({"node": "PACS"}), network({"node": "PACS"}, {})):
        found = caps(definition, "d")
        assert found == Caps(Limit(), "bata", Limit())
        assert (found.bandwidth, found.left(10**15, 10**15)) == (None, None)


@pytest.mark.parametrize("kind", [{"stow": "https://hub.example"}, {"s3": "s3://research"}])
def test_what_is_no_node_is_on_no_site_s_line(kind: dict[str, Any]) -> None:
    definition = network(kind | {"bandwidth": "1Mbit/s"}, {"bandwidth": "9kbit/s"})
    assert caps(definition, "d") == Caps(Limit(10**6))


def test_a_group_has_no_limit_and_an_unknown_key_is_an_error() -> None:
    definition = network({"node": "PACS", "bandwidth": "1Mbit/s"})
    assert caps(definition, "all") == Caps(Limit())
    with pytest.raises(KeyError):
        caps(definition, "gone")


@given(limits, limits, limits, limits, bytes_sent, bytes_sent)
def test_the_smaller_of_both_wins(
    own_rate: int | None,
    line_rate: int | None,
    own_budget: int | None,
    line_budget: int | None,
    sent_own: int,
    sent_others: int,
) -> None:
    found = Caps(Limit(own_rate, own_budget), "site", Limit(line_rate, line_budget))
    given_rates = [rate for rate in (own_rate, line_rate) if rate is not None]
    assert found.bandwidth == (min(given_rates) if given_rates else None)
    sent_line = sent_own + sent_others
    left = found.left(sent_own, sent_line)
    over = [own_budget is not None and sent_own >= own_budget, line_budget is not None and sent_line >= line_budget]
    assert (left == 0) is any(over)
    if left:
        assert own_budget is None or sent_own + left <= own_budget
        assert line_budget is None or sent_line + left <= line_budget
        assert sent_own + left == own_budget or sent_line + left == line_budget
    assert (left is None) is (own_budget is None and line_budget is None)


@given(st.lists(st.integers(0, 1000), max_size=30), st.integers(0, 5000))
def test_objects_start_in_their_order_as_long_as_anything_is_left(sizes: list[int], left: int) -> None:
    read: list[int] = []

    def reading() -> Iterator[int]:
        for size in sizes:
            read.append(size)
            yield size

    count = startable(reading(), left)
    started = sizes[:count]
    # It is past the budget by the last one at most, and what follows does not start only because nothing is left.
    assert not started or sum(started[:-1]) < left
    assert count == len(sizes) or sum(started) >= left
    assert len(read) == min(count + 1, len(sizes))


def test_an_object_larger_than_a_day_s_budget_goes_and_without_a_budget_all_go() -> None:
    assert startable([5000, 1, 1], 10) == 1
    assert startable([5000, 1, 1], 0) == 0
    assert startable([5000, 1, 1], None) == 3


@given(st.sampled_from(ZONES), instants)
@example("Africa/Cairo", datetime(2024, 4, 25, 12, tzinfo=UTC))
@example("America/Havana", datetime(2023, 11, 5, 4, 30, tzinfo=UTC))
def test_a_day_ends_exactly_when_the_next_begins(zone: str, at: datetime) -> None:
    day, end = today(zone, at), next_day(zone, at)
    assert end.tzinfo is UTC
    assert at < end <= at + timedelta(hours=25)
    assert today(zone, end) == day + timedelta(days=1)
    assert today(zone, end - timedelta(microseconds=1)) == day


@pytest.mark.parametrize(
    ("zone", "at", "day", "end"),
    [
        ("Africa/Malabo", "2026-11-20T22:59:59Z", "2026-11-20", "2026-11-20T23:00Z"),
        ("Africa/Malabo", "2026-11-20T23:00Z", "2026-11-21", "2026-11-21T23:00Z"),
        # Clocks jump from 24:00 to 01:00; show 00:00 twice; leave out a whole day; go back from 00:01 to 23:01.
        ("Africa/Cairo", "2024-04-25T12:00Z", "2024-04-25", "2024-04-25T22:00Z"),
        ("America/Havana", "2023-11-05T04:30Z", "2023-11-05", "2023-11-06T05:00Z"),
        ("Pacific/Apia", "2011-12-30T00:00Z", "2011-12-29", "2011-12-30T10:00Z"),
        ("America/St_Johns", "2010-11-07T03:00Z", "2010-11-06", "2010-11-07T03:30Z"),
    ],
)
def test_days_that_are_not_24_hours(zone: str, at: str, day: str, end: str) -> None:
    assert str(today(zone, datetime.fromisoformat(at))) == day
    assert next_day(zone, datetime.fromisoformat(at)) == datetime.fromisoformat(end)
