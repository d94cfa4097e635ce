from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts.definition import Calendar
from libs.definition.calendar import CalendarError, is_working_time, parse_days, parse_hours, read, working

MALABO = "Africa/Malabo"
OFFICE = Calendar(days="Mon-Fri", hours="08:00-16:00", holidays="GQ")


def at(text: str, timezone: str = MALABO) -> datetime:
    return datetime.fromisoformat(text).replace(tzinfo=ZoneInfo(timezone))


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("2026-11-20T07:59:59", False),
        ("2026-11-20T08:00", True),
        ("2026-11-20T15:59:59", True),
        ("2026-11-20T16:00", False),
        ("2026-11-21T10:00", False),  # Saturday
        ("2026-10-12T10:00", False),  # Independence Day, a Monday
        ("2026-10-13T10:00", True),
    ],
)
def test_office_hours(when: str, expected: bool) -> None:
    assert is_working_time(OFFICE, at(when), MALABO) is expected


def test_the_zone_of_the_moment_does_not_matter() -> None:
    assert is_working_time(OFFICE, datetime(2026, 11, 20, 7, 0, tzinfo=UTC), MALABO)  # 08:00 there
    assert not is_working_time(OFFICE, datetime(2026, 11, 20, 15, 0, tzinfo=UTC), MALABO)  # 16:00 there


@pytest.mark.parametrize(
    ("when", "expected"),
    [
        ("2026-11-20T20:00", True),  # Friday evening
        ("2026-11-21T05:59", True),  # still Friday's night
        ("2026-11-21T06:00", False),
        ("2026-11-21T20:00", False),  # Saturday
        ("2026-11-23T05:00", False),  # Monday morning belongs to Sunday
    ],
)
def test_hours_over_midnight_belong_to_the_day_on_which_they_began(when: str, expected: bool) -> None:
    assert is_working_time(Calendar(days="Mon-Fri", hours="20:00-06:00"), at(when), MALABO) is expected


def test_a_change_of_clocks_shifts_the_moment_and_not_the_hours() -> None:
    calendar = Calendar(days="Mon-Sun", hours="08:00-16:00")
    madrid = "Europe/Madrid"
    assert is_working_time(calendar, datetime(2026, 3, 28, 7, 0, tzinfo=UTC), madrid)
    assert not is_working_time(calendar, datetime(2026, 3, 28, 6, 0, tzinfo=UTC), madrid)
    assert is_working_time(calendar, datetime(2026, 3, 29, 6, 0, tzinfo=UTC), madrid)


def test_both_passages_of_a_repeated_hour_count_alike() -> None:
    calendar = Calendar(days="Sun", hours="02:00-03:00")
    assert is_working_time(calendar, datetime(2026, 10, 25, 0, 30, tzinfo=UTC), "Europe/Madrid")
    assert is_working_time(calendar, datetime(2026, 10, 25, 1, 30, tzinfo=UTC), "Europe/Madrid")


@pytest.mark.parametrize(
    ("text", "days"),
    [
        ("Mon-Fri", {0, 1, 2, 3, 4}),
        ("Mon,Wed", {0, 2}),
        ("Fri-Mon", {4, 5, 6, 0}),
        ("sun", {6}),
        ("Mon-Tue, Sat", {0, 1, 5}),
    ],
)
def test_days(text: str, days: set[int]) -> None:
    assert parse_days(text) == days


@pytest.mark.parametrize("text", ["", "Lun", "Mon-", "-Fri", "Mon-Fri-Sun", "Mon;Tue", ","])
def test_days_that_are_none(text: str) -> None:
    with pytest.raises(CalendarError, match="not a day or range of days"):
        parse_days(text)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("08:00-24:30", "latest is 24:00"),
        ("08:00-08:00", "is empty"),
        ("8-16", "not a range"),
        ("24:00-25:00", "latest"),
    ],
)
def test_hours_that_are_none(text: str, said: str) -> None:
    with pytest.raises(CalendarError, match=said):
        parse_hours(text)


def test_a_country_without_known_holidays() -> None:
    with pytest.raises(CalendarError, match="ISO 3166"):
        read(Calendar(holidays="XX"))


def test_a_moment_needs_its_offset() -> None:
    with pytest.raises(ValueError, match="offset"):
        is_working_time(OFFICE, datetime(2026, 11, 20, 10), MALABO)  # noqa: DTZ001  # that is the point


minutes = st.integers(0, 24 * 60 - 1)
zones = st.sampled_from([MALABO, "UTC", "Europe/Madrid", "America/St_Johns", "Australia/Lord_Howe"])
moments = st.datetimes(datetime(2020, 1, 1), datetime(2035, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001  # hypothesis wants it so


def hours(start: int, end: int) -> str:
    return f"{start // 60:02}:{start % 60:02}-{end // 60:02}:{end % 60:02}"


@given(minutes, minutes, moments, zones)
def test_hours_and_their_complement_cover_all_time(start: int, end: int, moment: datetime, zone: str) -> None:
    if start == end:
        return
    one = Calendar(days="Mon-Sun", hours=hours(start, end))
    other = Calendar(days="Mon-Sun", hours=hours(end, start))
    assert is_working_time(one, moment, zone) is not is_working_time(other, moment, zone)


@given(moments, zones, st.sets(st.integers(0, 6), min_size=1))
def test_whole_days_are_days_of_the_wall_clock(moment: datetime, zone: str, days: set[int]) -> None:
    names = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
    calendar = Calendar(days=",".join(names[day] for day in days), hours="00:00-24:00")
    local: date = moment.astimezone(ZoneInfo(zone)).date()
    assert is_working_time(calendar, moment, zone) is (local.weekday() in days)


@given(moments)
def test_holidays_only_take_time_away(moment: datetime) -> None:
    without = Calendar(days="Mon-Fri", hours="08:00-16:00")
    if is_working_time(OFFICE, moment, MALABO):
        assert is_working_time(without, moment, MALABO)
    both = working({"office": OFFICE, "all": without}, moment + timedelta(0), MALABO)
    assert both == {"office": is_working_time(OFFICE, moment, MALABO), "all": is_working_time(without, moment, MALABO)}
