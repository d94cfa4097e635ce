"""Where rules are wired."""

import asyncio
from contextlib import suppress

from contracts.definition import Snapshot
from libs.messaging.outbox import Outbox
from libs.service import Platform, Service
from services.rules import action_rows, metric, repository
from services.rules.api import make_router
from services.rules.decider import Decider
from services.rules.handlers import register
from services.rules.models import messaging
from services.rules.timers import Timers

#: Seconds after which waiting studies are looked at again: the object store came back, or another replica left them.
_LOOK_AGAIN = 30


class NotReadyError(Exception):
    """Rules can't decide; the message says what to do."""


def build(platform: Platform) -> Service:
    """Build the service."""
    database = platform.database("rules")
    outbox = Outbox("rules", platform.settings.region, platform.clock, messaging)
    decider = Decider(platform.network, outbox, platform.objects, platform.clock)
    register(platform.broker, decider, database, platform.clock)
    changed = asyncio.Event()

    def wake(_snapshot: Snapshot) -> None:
        changed.set()

    platform.network.on_change(wake)

    async def catch_up() -> None:
        while True:
            changed.clear()
            await decider.catch_up(database)
            async with database.reading() as tx:
                for reason, count in (await repository.count_waiting(tx)).items():
                    metric.WAITING.labels(reason=reason).set(count)
                metric.UNMATCHED_STUDIES.set(await action_rows.count_unmatched(tx))
            with suppress(TimeoutError):
                async with asyncio.timeout(_LOOK_AGAIN):
                    await changed.wait()

    async def definition() -> None:
        refused = decider.refused()
        if refused is not None:
            raise NotReadyError(f"the rules of version {refused} can't be read by this release: upgrade it")

    return Service(
        name="rules",
        database=database,
        tables=messaging,
        router=make_router(database, decider.in_force),
        loops=(catch_up, Timers(decider, database, platform.clock).run),
        checks={"definition": definition},
    )
