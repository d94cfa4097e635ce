"""Replicas killed under load, a few times; `make soak` does it two hundred times."""

import os
import random
from pathlib import Path

import pytest

from tests.soak.egress import trial
from tests.support.postgresql import PostgreSQL

pytestmark = [pytest.mark.integration, pytest.mark.crash]
_KILLS = 3


def test_replicas_killed_under_load_deliver_everything(tmp_path: Path, postgresql: PostgreSQL) -> None:
    seed = int(os.environ.get("KIVUKO_TEST_SEED", random.SystemRandom().randrange(2**32)))
    print(f"KIVUKO_TEST_SEED={seed}")
    found = trial(postgresql.database(), tmp_path, _KILLS, random.Random(seed))
    assert found.faults == []
    assert found.kills == _KILLS
    # What came again is what was under way, in each association that there was.
    assert found.received - found.requested == sum(found.repeats.elements()) <= _KILLS * 4
