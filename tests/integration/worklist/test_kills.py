"""Killed at any moment under orders, merges and performed steps: all that was answered is there. More: `make soak`."""

import os
import random
from pathlib import Path

import pytest

from tests.soak.worklist import Storm, alone, among_others, trial
from tests.support.postgresql import PostgreSQL
from tests.support.rabbitmq import RabbitMQ

pytestmark = [pytest.mark.integration, pytest.mark.crash, pytest.mark.timeout(600)]
KILLS = 3


@pytest.fixture(params=["alone", pytest.param("among others", marks=pytest.mark.soak)])
def storm(request: pytest.FixtureRequest, tmp_path: Path) -> Storm:
    """A worklist of each profile, and its senders; its seed is printed when the test fails."""
    seed = int(os.environ.get("KIVUKO_TEST_SEED", str(random.SystemRandom().randrange(2**32))))
    print(f"KIVUKO_TEST_SEED={seed}")
    choice = random.Random(seed)
    if request.param == "alone":
        return alone(tmp_path, choice)
    rabbitmq: RabbitMQ = request.getfixturevalue("rabbitmq")
    postgresql: PostgreSQL = request.getfixturevalue("postgresql")
    return among_others(tmp_path, choice, rabbitmq.vhost(), postgresql.database())


def test_whatever_was_answered_is_there_whenever_it_is_killed(storm: Storm) -> None:
    found = trial(storm, KILLS)
    assert found.faults == []
    assert found.killed.total() >= KILLS
    for what in ("messages answered AA", "messages sent again", "MPPS requests answered", "compared: events"):
        assert found.figures[what] > KILLS, what
