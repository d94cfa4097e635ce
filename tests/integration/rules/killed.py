"""What rules do with a few studies, in a process of its own: `killed DATABASE_URL FOLDER PHASE STATEMENTS`.

It kills itself, as a power cut would, when it is about to run that statement, or to commit, in that phase.
"""

import asyncio
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import event

from contracts.envelope import Event
from contracts.routing import RoutingQuarantined
from services.rules import action_rows
from tests.unit.rules.scene import (
    NOW,
    Scene,
    act,
    completed,
    definition,
    health,
    instance,
    make_scene,
    outbox_of,
    resolved,
    rule,
    stored,
)

PHASES = ("events", "timers", "people", "timers again")
ODD, TWO, THREE = (instance(number, InstanceNumber=number) for number in range(1, 4))
#: Half of them are of a modality that no rule names at first.
TENANTS = {f"t{number}": "CT" if number % 2 else "MR" for number in range(6)}
BEFORE = (
    act("odd", when='instance.InstanceNumber == 1 && instance.Modality == "CT"', quarantine="odd"),
    rule("ct", when='instance.Modality == "CT"', hold="30m"),
    act("tagged", "study", tag={"seen": "yes"}),
    rule("late", "telerad", "timer", after="1h", when='study.Modality == "CT"', priority="urgent"),
)
AFTER = (*BEFORE, rule("rest", "readers", when='instance.Modality == "MR"'))


def events() -> list[Event[Any]]:
    """Give all that comes: each batch, and each version, of every tenant."""
    found = [health("telerad", healthy=False)]
    for tenant, modality in TENANTS.items():
        own = [stored(one, Modality=modality) for one in (ODD, TWO, THREE)]
        versions = [completed(ODD, TWO, Modality=modality), completed(ODD, TWO, THREE, version=2, Modality=modality)]
        found += [each.model_copy(update={"tenant": tenant}) for each in (*own, *versions)]
    return found


async def live(scene: Scene, begins: Callable[[str], None] = lambda _: None) -> None:
    """Do all of it, what is done already once more: a broker brings again what was not acknowledged."""
    begins("events")
    await scene.apply(definition(*BEFORE))
    await scene.take(*events())
    begins("timers")
    scene.clock.now = NOW + timedelta(hours=1)
    await scene.look()
    begins("people")
    await scene.apply(definition(*AFTER))
    async with scene.database.reading() as tx:
        waiting = await action_rows.unmatched(tx, 0, 100)
    for row in waiting:
        async with scene.database.transaction() as tx:
            await scene.decider.again(tx, row.id)
    for told in await outbox_of(scene, RoutingQuarantined):
        await scene.take(resolved(told.data.quarantine_id).model_copy(update={"tenant": told.tenant}))
    begins("timers again")
    scene.clock.now = NOW + timedelta(hours=3)
    await scene.look()


async def main(database_url: str, folder: str, phase: str, statements: str) -> None:
    """Live until killed, or to the end."""
    scene = await make_scene(Path(folder), database_url)
    left = int(statements)
    at = ""

    def begins(name: str) -> None:
        nonlocal at
        at = name

    def count(*_: object) -> None:
        nonlocal left
        left -= at == phase
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    event.listen(scene.database.engine.sync_engine, "before_cursor_execute", count)
    event.listen(scene.database.engine.sync_engine, "commit", count)
    await live(scene, begins)
    await scene.database.close()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
