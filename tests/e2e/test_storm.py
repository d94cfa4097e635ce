"""Kills at random moments under many senders: nothing acknowledged is lost, nothing is left over, nothing is early."""

import os
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.support.kivuko import System, embedded
from tests.support.stored import NETWORK
from tests.support.storm import kill_one, lost, modalities, orphans, premature, settled, versions

pytestmark = [pytest.mark.e2e, pytest.mark.crash, pytest.mark.timeout(600)]

SENDERS = 8
KILLS = 8


@pytest.fixture
def choice() -> random.Random:
    """Give the randomness of this run; its seed is printed when the test fails."""
    seed = int(os.environ.get("KIVUKO_TEST_SEED", str(random.SystemRandom().randrange(2**32))))
    print(f"KIVUKO_TEST_SEED={seed}")
    return random.Random(seed)


def nothing_lost(system: System, kills: int, choice: random.Random, pace: float) -> None:
    """Let modalities send while things are killed, and look at what is there afterwards."""
    process = system.of("ingest")
    objects = f"file://{process.home / 'objects'}"
    system.start()
    system.apply(NETWORK)
    stations = modalities(system, SENDERS, choice, pace)
    for station in stations:
        station.start()
    killed = Counter(kill_one(process, choice) for _ in range(kills))
    for station in stations:
        station.stop()
    settled(system, stations)
    assert lost(system, stations, objects) == []
    assert orphans(system, objects) == []
    assert premature(system, stations, objects) == []
    # None of these checks says anything about nothing.
    assert sum(len(station.acknowledged) for station in stations) > 10 * kills
    assert versions(process.home)
    print(f"killed: {dict(killed)}; acknowledged: {sum(len(station.acknowledged) for station in stations)}")


def test_killed_under_eight_senders_nothing_is_lost_left_over_or_early(tmp_path: Path, choice: random.Random) -> None:
    system = embedded(tmp_path, KIVUKO_INGEST_QUIET_SECONDS="0.5")
    try:
        nothing_lost(system, KILLS, choice, pace=0.1)
    finally:
        system.kill()


def test_a_study_is_never_complete_without_what_was_acknowledged_before(tmp_path: Path, choice: random.Random) -> None:
    # Pauses about as long as the quiet time: studies are declared, amended and declared again while they grow.
    system = embedded(tmp_path, KIVUKO_INGEST_QUIET_SECONDS="0.3")
    try:
        nothing_lost(system, 4, choice, pace=0.8)
    finally:
        system.kill()
