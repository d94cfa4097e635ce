"""A process of rules is killed amid decisions, timers, releases and routing again: nothing is lost, nothing twice."""

import asyncio
import json
import os
import random
import signal
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from contracts.envelope import Event
from services.rules.models import messaging, requests, studies
from tests.integration.rules.killed import PHASES, live
from tests.unit.rules.scene import Scene, make_scene

pytestmark = [pytest.mark.integration, pytest.mark.crash]
#: Before which statement it is killed at the latest, by phase: so many there are in each life.
LATEST = {"events": 150, "timers": 40, "people": 60, "timers again": 20}
LIVES = (*PHASES, "events", "people")


async def facts(scene: Scene) -> Counter[tuple[Any, ...]]:
    """Count what was told: type, tenant and content of each event."""
    async with scene.database.reading() as tx:
        rows = await tx.execute(select(messaging.outbox.c.type, messaging.outbox.c.body))
        told = [(row.type, Event[Any].model_validate_json(row.body)) for row in rows]
    return Counter((kind, one.tenant, _written(one.data)) for kind, one in told)


def _written(data: dict[str, Any]) -> str:
    return json.dumps({name: value for name, value in data.items() if name != "quarantine_id"}, sort_keys=True)


async def killed(database_url: str, folder: Path, phase: str, statement: int) -> int:
    """Have the process live until that statement; give how it ended."""
    command = (sys.executable, "-m", "tests.integration.rules.killed", database_url, str(folder), phase, str(statement))
    process = await asyncio.create_subprocess_exec(*command)
    return await process.wait()


async def test_killed_amid_decisions_timers_and_people_it_says_what_it_would_have_said(
    tmp_path: Path, database_url: str
) -> None:
    seed = int(os.environ.get("KIVUKO_TEST_SEED", random.SystemRandom().randrange(2**32)))
    print(f"KIVUKO_TEST_SEED={seed}")
    choice = random.Random(seed)
    unharmed = await make_scene(tmp_path / "unharmed")
    await live(unharmed)
    wanted = await facts(unharmed)
    await unharmed.database.close()
    for phase in sorted(LIVES, key=PHASES.index):
        ended = await killed(database_url, tmp_path, phase, choice.randint(1, LATEST[phase]))
        assert ended == -signal.SIGKILL, f"it was to be killed amid {phase}"
    assert await killed(database_url, tmp_path, "", 0) == 0
    scene = await make_scene(tmp_path / "after", database_url)
    assert await facts(scene) == wanted
    async with scene.database.reading() as tx:
        assert (await tx.scalars(select(studies.c.unmatched_at).distinct())).all() == [None]
        where = (await tx.execute(select(requests.c.destination))).scalars().all()
    # Three images of six studies: those of three to the PACS and by the clock, those of the others where it is healthy.
    assert Counter(where) == {"pacs": 18, "telerad": 9}
    await scene.database.close()
