"""What a replay counts, and the page that it draws."""

from datetime import UTC, datetime
from html.parser import HTMLParser

from hypothesis import given
from hypothesis import strategies as st

from services.rules import findings, picture
from services.rules.findings import Change, Findings, changes, report
from services.rules.route import Route
from services.rules.simulation import Conflict, Outcome

HOUR = 490_000


def route(count: int = 1, priority: str = "routine", *transforms: str, hour: int = HOUR, held: bool = False) -> Route:
    return Route(priority, transforms or ("",), {hour: (count, count * 100)}, held)  # type: ignore[arg-type]  # a lane


def test_each_way_in_which_a_route_can_change_is_told() -> None:
    before = {"a": route(), "b": route(2), "c": route(1, "stat"), "d": route(1, "bulk", "anon"), "e": route(held=True)}
    after = {"b": route(3), "c": route(1, "bulk"), "d": route(1, "bulk", "", "anon"), "e": route(), "f": route()}
    assert changes(before, after) == [
        Change("a", "lost", "routine", ""),
        Change("b", "more", "2", "3"),
        Change("c", "priority", "stat", "bulk"),
        Change("d", "transform", "anon", "none, anon"),
        Change("e", "hold", "held", ""),
        Change("f", "gained", "", "routine"),
    ]
    assert changes(before, before) == []


def test_studies_bytes_and_hours_are_counted_by_destination() -> None:
    found = Findings()
    found.add("1.1", "malabo", 100, {"a": route()}, Outcome({"a": route(), "b": route(3, hour=HOUR + 1)}, {"all"}))
    found.add("1.2", "bata", 100, {"a": route(2)}, Outcome({}, conflicts={Conflict("a", ("x", "y"), "priority")}))
    said = report(found)
    assert (said["studies"], said["changed_studies"], said["nowhere"]) == (2, 2, {"before": 0, "after": 1})
    by_name = {one["destination"]: one for one in said["destinations"]}
    assert (by_name["a"]["studies_before"], by_name["a"]["studies_after"]) == (2, 1)
    assert (by_name["a"]["bytes_before"], by_name["a"]["busiest_hour_bytes_before"]) == (300, 300)
    assert by_name["b"]["bytes_after"] == 300
    assert [(one["hour"], one["destination"], one["bytes_before"], one["bytes_after"]) for one in said["hours"]] == [
        ("2025-11-24T16:00:00Z", "a", 300, 100),
        ("2025-11-24T17:00:00Z", "b", 0, 300),
    ]
    assert {(one["site"], one["destination"]) for one in said["flows"]} == {
        ("malabo", "a"),
        ("malabo", "b"),
        ("bata", "a"),
    }
    assert said["rules"] == {"all": 1}
    assert said["conflicts"][0]["example"] == "1.2"


some = st.dictionaries(st.sampled_from("abc"), st.builds(route, st.integers(1, 3), st.sampled_from(["stat", "bulk"])))
pairs = st.lists(st.tuples(some, some), max_size=12)


@given(pairs, st.integers(0, 12))
def test_what_workers_found_apart_adds_up(studies: list[tuple[dict[str, Route], dict[str, Route]]], cut: int) -> None:
    whole, first, second = Findings(), Findings(), Findings()
    for number, (before, after) in enumerate(studies):
        for found in (whole, first if number < cut else second):
            found.add(str(number), "malabo", 1, before, Outcome(after, {"all"}))
    first.absorb(second)
    assert report(first) == report(whole)


def test_what_can_be_told_apart_is_bounded_and_nothing_is_lost() -> None:
    found = Findings()
    for number in range(findings.MOST_CHANGES + 50):
        found.add(str(number), "malabo", 1, {f"d{number}": route()}, Outcome({}))
    said = report(found)
    assert len(said["routes"]) == findings.MOST_CHANGES + 1
    assert sum(one["studies"] for one in said["routes"]) == found.changed


class Reader(HTMLParser):
    """Sees to it that every element that is opened is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.seen: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:  # noqa: ARG002 - the parser's
        self.seen.append(tag)
        if tag != "meta":
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


@given(pairs, st.sampled_from(["malabo", "<script>", "a & b"]))
def test_the_page_is_whole_and_names_are_no_markup(
    studies: list[tuple[dict[str, Route], dict[str, Route]]], site: str
) -> None:
    found = Findings()
    for number, (before, after) in enumerate(studies):
        found.add(str(number), site, 1, before, Outcome(after))
    page = picture.page(
        report(found), datetime(2026, 11, 1, tzinfo=UTC), datetime(2026, 11, 20, tzinfo=UTC), "recorded"
    )
    reader = Reader()
    reader.feed(page)
    assert reader.open == []
    assert "script" not in reader.seen
    assert ("svg" in reader.seen) is any(before or after for before, after in studies)
