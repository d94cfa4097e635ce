"""Kills under many senders: nothing acknowledged is lost, left over or early; many more of them: `make soak`."""

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.support.kivuko import embedded
from tests.support.storm import storm

pytestmark = [pytest.mark.e2e, pytest.mark.crash, pytest.mark.timeout(600)]


@pytest.fixture
def choice() -> random.Random:
    """Give the randomness of this run; its seed is printed when the test fails."""
    seed = int(os.environ.get("KIVUKO_TEST_SEED", str(random.SystemRandom().randrange(2**32))))
    print(f"KIVUKO_TEST_SEED={seed}")
    return random.Random(seed)


def nothing_amiss(folder: Path, choice: random.Random, *, kills: int, between: int, quiet: str, pace: float) -> None:
    """Nothing is lost, left over or early after a storm; and there was something that could have been."""
    system = embedded(folder, KIVUKO_INGEST_QUIET_SECONDS=quiet)
    killed: Counter[str] = Counter()
    try:
        found = storm(
            system,
            senders=8,
            kills=kills,
            between=between,
            choice=choice,
            pace=pace,
            told=lambda what: killed.update([what]),
        )
    finally:
        system.kill()
    print(f"killed: {dict(killed)}; acknowledged: {found.acknowledged}; versions: {found.versions}")
    assert found.faults == []
    assert found.acknowledged > kills * between
    assert found.versions > 0


def test_killed_under_eight_senders_nothing_is_lost_left_over_or_early(tmp_path: Path, choice: random.Random) -> None:
    nothing_amiss(tmp_path, choice, kills=3, between=24, quiet="0.5", pace=0.1)


def test_a_study_is_never_complete_without_what_was_acknowledged_before(tmp_path: Path, choice: random.Random) -> None:
    # Pauses about as long as the quiet time: studies are declared, amended and declared again while they grow.
    nothing_amiss(tmp_path, choice, kills=2, between=100, quiet="0.2", pace=0.6)
