from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from contracts.definition import Assembly
from services.ingest.evidence import Known, Patience, decide, patience
from services.ingest.performed import NOTHING, Performed
from services.ingest.tally import Tally

pytestmark = pytest.mark.unit
START = datetime(2026, 1, 1, tzinfo=UTC)
QUIET = timedelta(seconds=30)
PATIENCE = Patience(QUIET, {"MR": timedelta(minutes=10), "CR": timedelta(seconds=10)}, timedelta(hours=1))


def seconds(count: float) -> timedelta:
    return timedelta(seconds=count)


def known(
    *series: Tally,
    announced: int | None = None,
    broken: float | None = None,
    last: float = 0,
    pending: float = 0,
    performed: Performed = NOTHING,
) -> Known:
    return Known(
        last_arrival=START + seconds(last),
        pending_since=START + seconds(pending),
        listening_since=START - timedelta(days=1),
        broken_at=None if broken is None else START + seconds(broken),
        announced=announced,
        series=series,
        performed=performed,
    )


def wait(known: Known, patience: Patience = PATIENCE) -> float:
    """Give the seconds after the last arrival at which the study is complete, as whoever looks again finds it."""
    now = known.last_arrival
    for _ in range(3):
        decision = decide(known, patience, now)
        if decision.until is None:
            return (now - known.last_arrival).total_seconds()
        assert decision.until > now
        now = decision.until
    pytest.fail("it is looked at again and again")


CT = Tally("CT", 20, 1, ((1, 20),))
GAP = Tally("CT", 19, 1, ((1, 9), (11, 20)))


@pytest.mark.parametrize(
    ("what", "expected", "kinds"),
    [
        (known(CT), 30, ["association-ended", "quiet", "numbers"]),
        (known(Tally("CT", 1, 1, ((1, 1),))), 30, ["association-ended", "quiet"]),
        (known(Tally("CR", 1, 1, ((1, 1),))), 10, ["association-ended", "quiet"]),
        # The longest of the modalities that say something.
        (known(CT, Tally("MR", 1, 1, None)), 600, ["association-ended", "quiet", "numbers"]),
        (known(GAP), 60, ["association-ended", "quiet", "numbers"]),
        (known(CT, broken=0), 90, ["association-ended", "quiet", "numbers"]),
        # Something came after the break: its sender has tried again.
        (known(CT, broken=-1), 30, ["association-ended", "quiet", "numbers"]),
        (known(CT, announced=20), 7.5, ["association-ended", "quiet", "numbers", "announced"]),
        (known(CT, announced=21), 120, ["association-ended", "quiet", "numbers", "announced"]),
        # More than announced: the number was not about this study as it is now.
        (known(CT, announced=19), 30, ["association-ended", "quiet", "numbers"]),
        (known(Tally("CT", 5, 1, None, 6)), 120, ["association-ended", "quiet", "announced"]),
        # Of two that make it longer the one that does most; one against outweighs that a number is met.
        (known(GAP, broken=0, announced=20), 120, ["association-ended", "quiet", "numbers", "announced"]),
        (known(GAP, announced=19), 60, ["association-ended", "quiet", "numbers", "announced"]),
        (known(CT, performed=Performed(0, 20, 0)), 7.5, ["association-ended", "quiet", "numbers", "performed"]),
        (known(CT, performed=Performed(0, 25, 5)), 120, ["association-ended", "quiet", "numbers", "performed"]),
        (known(CT, performed=Performed(1, 0, 0)), 120, ["association-ended", "quiet", "numbers", "performed"]),
        # One step is at its end, another is not.
        (known(CT, performed=Performed(1, 9, 0)), 120, ["association-ended", "quiet", "numbers", *["performed"] * 2]),
        # Numbers of reports say nothing.
        (known(Tally("SR", 3, 1, ((1, 2), (4, 4)))), 30, ["association-ended", "quiet"]),
    ],
)
def test_how_long_it_waits_and_what_it_says(what: Known, expected: float, kinds: list[str]) -> None:
    assert wait(what) == expected
    decision = decide(what, PATIENCE, what.last_arrival + seconds(expected))
    assert [sign.kind for sign in decision.signs] == kinds
    assert all(sign.detail for sign in decision.signs)


def test_nothing_waits_longer_than_at_most() -> None:
    trickling = known(CT, announced=500, last=3599)
    assert decide(trickling, PATIENCE, START + seconds(3599)).until == START + seconds(3600)
    decision = decide(trickling, PATIENCE, START + seconds(3600))
    assert decision.until is None
    assert [sign.kind for sign in decision.signs] == ["association-ended", "quiet", "numbers", "announced", "waited"]
    assert [sign.kind for sign in decision.against] == ["quiet", "announced"]
    assert decision.score < 0.5


def test_silence_counts_from_when_somebody_listened() -> None:
    restarted = Known(START, START, START + seconds(100), None, None, [CT])
    assert decide(restarted, PATIENCE, START + seconds(101)).until == START + seconds(130)
    assert decide(restarted, PATIENCE, START + seconds(130)).until is None


def test_a_clock_that_was_put_back_holds_nothing_up() -> None:
    assert decide(known(GAP, last=3600, pending=3600), PATIENCE, START).until is None


def test_scores_tell_sure_from_doubtful() -> None:
    def score(what: Known) -> float:
        return decide(what, PATIENCE, START + timedelta(minutes=30)).score

    assert score(known(CT, announced=20)) == score(known(CT, performed=Performed(0, 20, 0))) == 1
    assert (
        score(known(CT, performed=Performed(0, 21, 1)))
        < score(known(CT, performed=Performed(1, 0, 0)))
        < score(known(CT))
    )
    assert score(known(CT)) == 0.9
    assert score(known(GAP)) < score(known(Tally("CT", 1, 1, None))) < score(known(CT))
    assert score(known(GAP, broken=0, announced=20)) == 0


tallies = st.builds(
    Tally,
    st.sampled_from([None, "CT", "MR", "SR"]),
    st.integers(1, 9),
    st.just(1),
    st.sampled_from([None, ((1, 5),), ((1, 2), (4, 9))]),
    st.none() | st.integers(1, 9),
)


@given(
    st.lists(tallies, min_size=1, max_size=4),
    st.none() | st.integers(1, 30),
    st.booleans(),
    st.integers(0, 8000),
    st.integers(0, 8000),
    st.integers(0, 90_000),
)
def test_every_study_is_complete_by_at_most_and_not_before_a_quarter_of_its_quiet_time(
    series: list[Tally], announced: int | None, broken: bool, pending: int, last: int, now: int
) -> None:
    assume(pending <= last <= now)
    what = known(*series, announced=announced, broken=last if broken else None, last=last, pending=pending)
    decision = decide(what, PATIENCE, START + seconds(now))
    if now - pending >= 3600:
        assert decision.until is None
    if decision.until is None:
        assert now - last >= 30 * 0.25 or now - pending >= 3600
        assert now - last >= PATIENCE.first_look(
            what.modalities, count=what.count, announced=announced
        ).total_seconds() or (now - pending >= 3600)
    else:
        assert (
            START + seconds(now)
            < decision.until
            <= START + seconds(min(last + PATIENCE.longest.total_seconds(), pending + 3600))
        )
    assert 0 <= decision.score <= 1


def test_the_definition_says_how_long() -> None:
    assert patience(Assembly(), QUIET) == Patience(QUIET)
    assert patience(Assembly(quiet=60, modalities={"MR": 600}, at_most=3600), QUIET) == Patience(
        seconds(60), {"MR": seconds(600)}, seconds(3600)
    )
