"""What the answers of those mean that steps are passed on to, and when it is tried again."""

from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.worklist.forward import Backoff, Verdict, judge

pytestmark = pytest.mark.unit
NOW = datetime(2026, 11, 20, tzinfo=UTC)


@pytest.mark.parametrize(
    ("status", "error_id", "create", "expected"),
    [
        (0x0000, 0, True, "taken"),
        (0x0107, 0, False, "taken"),
        (0x0116, 0, False, "taken"),
        (0xB000, 0, True, "taken"),
        (0x0111, 0, True, "taken"),
        (0x0111, 0, False, "again"),
        (0x0110, 0xA710, False, "taken"),
        # An N-CREATE can't be too late, and without its error identifier 0110 says nothing.
        (0x0110, 0xA710, True, "again"),
        (0x0110, 0, False, "again"),
        (0x0112, 0, False, "anew"),
        (0x0112, 0, True, "again"),
        (0x0120, 0, True, "refused"),
        (0x0106, 0, False, "refused"),
        (0x0122, 0, True, "refused"),
        (0x0213, 0, True, "again"),
        (0xA700, 0, False, "again"),
        (0xC000, 0, False, "again"),
    ],
)
def test_what_an_answer_means(status: int, error_id: int, create: bool, expected: Verdict) -> None:
    assert judge(status, error_id, create=create) == expected


@given(st.integers(1, 2000), st.floats(0, 1, exclude_max=True))
def test_waits_grow_to_a_bound(failures: int, chance: float) -> None:
    backoff = Backoff(2, 900)
    wait = (backoff.after(failures, NOW, lambda: chance) - NOW).total_seconds()
    whole = min(900, 2 * 2 ** min(failures - 1, 16))
    assert whole / 2 <= wait <= whole
