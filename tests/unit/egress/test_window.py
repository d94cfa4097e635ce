from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from contracts.definition import TimeWindow
from services.egress.window import closes_at, is_open, opens_at, passings

pytestmark = pytest.mark.unit

MINUTE = timedelta(minutes=1)
#: Clocks that never change, that change by half an hour, at midnight, back over midnight, by a day, in winter.
CHANGES = {
    "UTC": "2026-03-29",
    "Africa/Malabo": "2026-10-25",
    "Asia/Kathmandu": "2026-06-01",
    "Europe/Berlin": "2026-03-29",
    "Europe/Dublin": "2026-10-25",
    "America/New_York": "2026-11-01",
    "Australia/Lord_Howe": "2026-04-05",
    "Pacific/Chatham": "2026-09-27",
    "Africa/Cairo": "2024-04-26",
    "Africa/Casablanca": "2024-03-10",
    "America/Havana": "2023-11-05",
    "America/Sao_Paulo": "2017-10-15",
    "America/St_Johns": "2010-11-07",
    "Pacific/Apia": "2011-12-30",
}
zones = st.sampled_from(sorted(CHANGES))
minutes = st.integers(0, 24 * 60 - 1)


def clock(minute: int) -> str:
    return f"{minute // 60:02}:{minute % 60:02}"


@st.composite
def windows(draw: st.DrawFn) -> str:
    start = draw(minutes)
    end = draw(st.integers(0, 24 * 60).filter(lambda minute: minute != start))
    return TypeAdapter[str](TimeWindow).validate_python(f"{clock(start)}-{clock(end)}")


@st.composite
def moments(draw: st.DrawFn) -> tuple[str, datetime]:
    """Give a zone, and a moment within two days of a change of its clocks."""
    zone = draw(zones)
    near = datetime.fromisoformat(f"{CHANGES[zone]}T00:00Z")
    return zone, near + timedelta(milliseconds=draw(st.integers(-172_800_000, 172_800_000)))


def shown(zone: str, at: datetime, window: str) -> bool:
    """Decide by comparing what people read off the wall clock."""
    now = f"{at.astimezone(ZoneInfo(zone)):%H:%M}"
    start, end = window.split("-")
    return start <= now < end if start < end else not end <= now < start


def minutes_after(at: datetime) -> Iterator[datetime]:
    whole = at.replace(second=0, microsecond=0)
    return (whole + count * MINUTE for count in range(1, 4 * 24 * 60))


@given(moments(), windows())
@example(("Europe/Berlin", datetime(2026, 3, 28, 23, tzinfo=UTC)), "02:30-05:00")
@example(("Europe/Berlin", datetime(2026, 3, 28, 23, tzinfo=UTC)), "02:15-02:45")
@example(("Europe/Dublin", datetime(2026, 10, 24, 23, tzinfo=UTC)), "20:00-01:30")
@example(("America/St_Johns", datetime(2010, 11, 7, 2, 30, 30, tzinfo=UTC)), "23:30-00:00")
@example(("Pacific/Apia", datetime(2011, 12, 30, 9, 59, tzinfo=UTC)), "00:00-01:00")
def test_it_opens_and_closes_when_the_wall_clock_says_so(moment: tuple[str, datetime], window: str) -> None:
    zone, at = moment
    now = is_open(window, zone, at)
    assert now is shown(zone, at, window)
    opens, closes = opens_at(window, zone, at), closes_at(window, zone, at)
    change = next((minute for minute in minutes_after(at) if shown(zone, minute, window) is not now), None)
    assert (opens, closes) == ((at, change) if now else (change, at))


@pytest.mark.parametrize("window", [None, "00:00-24:00"])
@given(moments())
def test_the_whole_day_is_always_open(window: str | None, moment: tuple[str, datetime]) -> None:
    zone, at = moment
    assert is_open(window, zone, at)
    assert opens_at(window, zone, at) == at
    assert closes_at(window, zone, at) is None


def test_a_night_at_malabo() -> None:
    evening = datetime(2026, 11, 20, 18, 59, 59, tzinfo=UTC)
    opens, closes = datetime(2026, 11, 20, 19, tzinfo=UTC), datetime(2026, 11, 21, 5, tzinfo=UTC)
    night = ("20:00-06:00", "Africa/Malabo")
    assert not is_open(*night, evening)
    assert opens_at(*night, evening) == opens
    assert is_open(*night, opens)
    assert closes_at(*night, opens) == closes
    assert not is_open(*night, closes)


def test_a_night_in_which_clocks_change_is_as_long_as_the_clock_makes_it() -> None:
    for opens, hours in ((datetime(2026, 3, 28, 19, tzinfo=UTC), 9), (datetime(2026, 10, 24, 18, tzinfo=UTC), 11)):
        assert opens_at("20:00-06:00", "Europe/Berlin", opens - timedelta(hours=1)) == opens
        assert closes_at("20:00-06:00", "Europe/Berlin", opens) == opens + timedelta(hours=hours)


def test_a_time_that_is_skipped_is_passed_at_the_change_and_one_that_is_repeated_twice() -> None:
    spring, autumn = datetime(2026, 3, 29, 1, tzinfo=UTC), datetime(2026, 10, 25, 1, tzinfo=UTC)
    half = timedelta(minutes=30)
    assert passings("Europe/Berlin", datetime(2026, 3, 29, 2, 30)) == [spring]  # noqa: DTZ001 - a wall clock
    assert passings("Europe/Berlin", datetime(2026, 10, 25, 2, 30)) == [autumn - half, autumn, autumn + half]  # noqa: DTZ001 - a wall clock
    assert passings("Europe/Berlin", datetime(2026, 10, 25, 3)) == [autumn + 2 * half]  # noqa: DTZ001 - a wall clock


@given(moments(), windows(), st.timezones(no_cache=False))
def test_the_offset_in_which_a_moment_is_told_does_not_matter(
    moment: tuple[str, datetime], window: str, told_in: ZoneInfo
) -> None:
    zone, at = moment
    told = at.astimezone(told_in)
    assert is_open(window, zone, told) is is_open(window, zone, at)
    assert opens_at(window, zone, told).tzinfo is UTC
    assert opens_at(window, zone, told) == opens_at(window, zone, at)
    assert closes_at(window, zone, told) == closes_at(window, zone, at)


def test_what_cannot_be_answered_is_an_error() -> None:
    with pytest.raises(ValueError, match="offset"):
        is_open("20:00-06:00", "UTC", datetime(2026, 11, 20))  # noqa: DTZ001 - the mistake
    with pytest.raises(ZoneInfoNotFoundError):
        is_open("20:00-06:00", "Africa/Atlantis", datetime(2026, 11, 20, tzinfo=UTC))
