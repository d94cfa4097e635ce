import heapq
import os
import sys
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import accumulate
from random import Random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.egress.pace import Pace, burst, piece

pytestmark = pytest.mark.unit

#: From a satellite telephone to a local network.
rates = st.sampled_from([9_600, 64_000, 384_000, 2_000_000, 20_000_000]) | st.integers(1_000, 20_000_000)
luck = st.integers(0, 2**32 - 1).map(Random)


@dataclass
class Clock:
    """A clock that is set by the test."""

    now: float = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass(frozen=True)
class Write:
    """Bytes that went."""

    at: float
    size: int


def sending(
    pace: Pace,
    clock: Clock,
    threads: int,
    seconds: float,
    *,
    size: Callable[[], int],
    late: Callable[[], float] = lambda: 0.0,
    pause: Callable[[], float] = lambda: 0.0,
) -> list[Write]:
    """Let threads send by turns: each asks, waits as long as it is told (and `late` more), writes, and may pause."""
    asking = [(clock.now, number) for number in range(threads)]
    end = clock.now + seconds
    writes: list[Write] = []
    while asking[0][0] < end:
        clock.now, number = heapq.heappop(asking)
        count = size()
        wait = pace.take(count)
        goes = clock.now + (wait + late() if wait else 0.0)
        writes.append(Write(goes, count))
        heapq.heappush(asking, (goes + pause(), number))
    return sorted((write for write in writes if write.at <= end), key=lambda write: write.at)


def fullest(writes: Iterable[Write], rate: int) -> float:
    """Give the most by which the bytes of any stretch of time are more than the rate allows in it."""
    level = most = last = 0.0
    for write in writes:
        level = max(0.0, level - (write.at - last) * rate / 8) + write.size
        last = write.at
        most = max(most, level)
    return most


def inside(writes: list[Write], seconds: float) -> Iterator[tuple[int, int]]:
    """Give the bytes of each whole stretch that begins with a write: without those at its ends, and with them."""
    times = [write.at for write in writes]
    gone = list(accumulate((write.size for write in writes), initial=0))
    for begin in times:
        end = begin + seconds
        if end <= times[-1]:
            yield (
                gone[bisect_left(times, end)] - gone[bisect_right(times, begin)],
                gone[bisect_right(times, end)] - gone[bisect_left(times, begin)],
            )


@settings(deadline=None)
@given(rates, st.integers(1, 8), luck)
def test_no_stretch_of_time_has_more_than_the_cap_and_one_burst(rate: int, threads: int, chance: Random) -> None:
    clock = Clock()
    pace = Pace(rate, clock)
    writes = sending(
        pace,
        clock,
        threads,
        12,
        size=lambda: max(1, int(piece(rate) * (0.25 + 0.75 * chance.random()))),
        pause=lambda: chance.choice([0.0, 0.0, 0.0, 0.02, 1.5]),
    )
    # A time of a million seconds is as exact as a tenth of a nanosecond.
    assert fullest(writes, rate) <= burst(rate) + 1e-3 + 1e-9 * rate


@settings(deadline=None)
@given(rates, st.integers(1, 8), luck)
def test_a_backlog_uses_the_cap_though_each_thread_wakes_up_late(rate: int, threads: int, chance: Random) -> None:
    clock = Clock()
    writes = sending(
        Pace(rate, clock), clock, threads, 12, size=lambda: piece(rate), late=lambda: 0.05 * chance.random()
    )
    assert sum(write.size for write in writes) >= 0.95 * 12 * rate / 8


@settings(deadline=None)
@given(rates, st.integers(1, 4))
def test_any_ten_seconds_of_a_backlog_are_within_5_percent(rate: int, threads: int) -> None:
    clock = Clock()
    writes = sending(Pace(rate, clock), clock, threads, 15, size=lambda: piece(rate))
    measured = list(inside(writes, 10))
    assert len(measured) > 30
    for least, most in measured:
        assert 0.95 * rate * 10 / 8 <= least <= most <= 1.05 * rate * 10 / 8


@given(st.integers(1, 10**12))
def test_a_write_is_short_and_a_burst_is_at_least_one_and_at_most_4_percent_of_10_s(rate: int) -> None:
    assert 1 <= piece(rate) <= max(1, rate * 0.1 / 8)
    assert burst(rate) <= rate * 0.4 / 8
    if rate >= 80:
        assert piece(rate) <= burst(rate)


def test_figures_of_known_lines() -> None:
    assert (piece(384_000), burst(384_000)) == (4_800, 16_384)
    assert (piece(2_000_000), burst(2_000_000)) == (25_000, 25_000)
    assert (piece(10**9), burst(10**9)) == (256 * 1024, 12_500_000)


def test_the_first_burst_goes_at_once_and_what_follows_waits_its_time() -> None:
    clock = Clock()
    pace = Pace(384_000, clock)
    assert pace.take(16_384) == pytest.approx(0, abs=1e-6)
    assert pace.take(4_800) == pytest.approx(0.1)
    assert pace.take(48_000) == pytest.approx(1.1)
    clock.now += 60
    assert pace.take(16_384) == pytest.approx(0, abs=1e-6)
    assert pace.take(4_800) == pytest.approx(0.1)


def test_another_cap_counts_from_the_next_write_on() -> None:
    clock = Clock()
    pace = Pace(80_000, clock)
    assert pace.take(20_000) == pytest.approx(2 - 0.4)
    pace.change(8_000_000)
    assert pace.rate == 8_000_000
    assert pace.take(1_000_000) == pytest.approx(2 + 1 - 0.1)
    pace.change(80_000)
    assert pace.take(1_000) == pytest.approx(3 + 0.1 - 0.4)


@settings(deadline=None)
@given(st.lists(st.tuples(rates, st.floats(0, 2)), min_size=1, max_size=12), luck)
def test_changes_of_the_cap_bring_no_bytes(caps: list[tuple[int, float]], chance: Random) -> None:
    clock = Clock()
    pace = Pace(caps[0][0], clock)
    # Each write takes as many seconds as its cap makes of it: of these there are no more than go by.
    ahead, last = 0.0, clock.now
    for rate, seconds in caps:
        pace.change(rate)
        size = max(1, int(piece(rate) * (0.25 + 0.75 * chance.random())))
        for write in sending(pace, clock, 1, seconds, size=lambda size=size: size):  # type: ignore[misc] # lambda default
            ahead = max(0.0, ahead - (write.at - last)) + write.size * 8 / rate
            last = write.at
            assert ahead <= 0.4 + 1e-6
        clock.now = max(clock.now, last)


@pytest.mark.parametrize("rate", [0, -1])
def test_a_cap_that_lets_nothing_through_is_refused(rate: int) -> None:
    with pytest.raises(ValueError, match="lets nothing through"):
        Pace(rate, Clock())
    pace = Pace(8_000, Clock())
    with pytest.raises(ValueError, match="lets nothing through"):
        pace.change(rate)
    assert pace.rate == 8_000


def test_threads_take_one_after_the_other() -> None:
    inside: list[int] = []
    together: list[int] = []

    def now() -> float:
        inside.append(1)
        os.sched_yield()
        together.append(len(inside))
        inside.pop()
        return 0.0

    pace = Pace(8_000, now)
    threads = [threading.Thread(target=lambda: [pace.take(1) for _ in range(500)]) for _ in range(8)]
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        sys.setswitchinterval(interval)
    assert max(together) == 1
    assert pace.take(0) == pytest.approx(4 - 0.4)
