"""Killed at any moment: every answer is an item, and nothing is there by halves."""

import random
import subprocess
import sys
from pathlib import Path

import pytest
from sqlalchemy import func, select

from services.worklist.models import changes, items, messages, messaging, orders
from tests.integration.worklist.conftest import make_desk

pytestmark = [pytest.mark.integration, pytest.mark.crash]
ROOT = Path(__file__).parents[3]
KILLS = 6


def killed(url: str, first: int, after: int) -> set[int]:
    """Let it take orders, and kill it after so many answers; give all that it has answered."""
    command = [sys.executable, "-m", "tests.integration.worklist.order_victim", url, str(first)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as victim:
        assert victim.stdout is not None
        answered = {int(victim.stdout.readline()) for _ in range(after)}
        victim.kill()
        # What it could still say before it went counts as well.
        return answered | {int(line) for line in victim.stdout if line.endswith("\n")}


async def test_every_answer_is_an_item_whenever_it_is_killed(database_url: str) -> None:
    moments = random.Random(6)
    answered: set[int] = set()
    await (await make_desk(database_url)).database.close()
    for kill in range(KILLS):
        answered |= killed(database_url, kill * 1_000_000, moments.randint(1, 120))
    desk = await make_desk(database_url)
    async with desk.database.reading() as tx:
        placers = set(await tx.scalars(select(orders.c.placer).join(items, items.c.order_id == orders.c.id)))
        counts = [
            await tx.scalar(select(func.count()).select_from(table))
            for table in (orders, items, changes, messages, messaging.outbox)
        ]
    assert {f"P{number}" for number in answered} <= placers
    assert len(set(counts)) == 1
    await desk.database.close()
