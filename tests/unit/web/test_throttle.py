from datetime import timedelta

import pytest

from libs.web.throttle import Throttle
from tests.unit.web.conftest import SettableClock

pytestmark = pytest.mark.unit


def test_failures_beyond_the_limit_have_to_wait_until_the_window_ends(clock: SettableClock) -> None:
    throttle = Throttle(clock, limit=3, window=timedelta(minutes=1))
    assert [throttle.failed("a") for _ in range(3)] == [None, None, None]
    clock.move(timedelta(seconds=20))
    assert throttle.failed("a") == 40
    assert throttle.failed("b") is None
    clock.move(timedelta(seconds=40))
    assert throttle.failed("a") is None


def test_memory_is_bounded(clock: SettableClock) -> None:
    throttle = Throttle(clock, limit=1, addresses=2)
    for address in ("a", "b", "c"):
        throttle.failed(address)
    # The oldest was forgotten, the others were not.
    assert throttle.failed("a") is None
    assert throttle.failed("c") is not None
