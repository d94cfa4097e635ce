"""Where rules are wired."""

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import timedelta

from contracts.definition import Snapshot
from libs.clock import Clock
from libs.messaging.outbox import Outbox
from libs.service import Platform, Service
from libs.storage.database import Database
from services.rules import action_rows, history, metric, ordered, repository, uses
from services.rules.api import make_router
from services.rules.decider import Decider
from services.rules.explain_api import make_explain_router
from services.rules.handlers import register
from services.rules.models import messaging
from services.rules.replay_api import make_replay_router
from services.rules.replays import Replays
from services.rules.settings import RulesSettings
from services.rules.study_api import make_study_router
from services.rules.timers import Timers

#: Seconds after which waiting studies are looked at again: the object store came back, or another replica left them.
_LOOK_AGAIN = 30
#: Seconds after which is looked for what has been kept long enough.
_FORGET_AGAIN = 600


class NotReadyError(Exception):
    """Rules can't decide; the message says what to do."""


def build(platform: Platform) -> Service:
    """Build the service."""
    database = platform.database("rules")
    outbox = Outbox("rules", platform.settings.region, platform.clock, messaging)
    settings = RulesSettings()
    decider = Decider(platform.network, outbox, platform.objects, platform.clock)
    register(platform.broker, decider, database, platform.clock)
    changed = asyncio.Event()
    replays = Replays(
        database,
        platform.objects,
        database_url=platform.settings.database,
        processes=settings.replay_processes,
        longest=settings.replay_seconds,
        clock=platform.clock,
        objects_url=platform.settings.objects,
        most_headers=settings.replay_headers,
    )

    def wake(_snapshot: Snapshot) -> None:
        changed.set()

    platform.network.on_change(wake)

    async def catch_up() -> None:
        while True:
            changed.clear()
            await _keep_definition(database, decider, platform.clock)
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

    router = make_router(database, decider.in_force)
    router.include_router(make_explain_router(database, decider.in_force))
    router.include_router(make_study_router(database, decider))
    router.include_router(make_replay_router(database, platform.objects, replays, decider.in_force, platform.clock))
    return Service(
        name="rules",
        database=database,
        tables=messaging,
        router=router,
        stop=replays.close,
        loops=(
            catch_up,
            _forgetting(database, platform.clock, settings.history_days),
            Timers(decider, database, platform.clock).run,
            lambda: decider.uses.run(database),
        ),
        checks={"definition": definition},
    )


async def _keep_definition(database: Database, decider: Decider, clock: Clock) -> None:
    """Keep the definition that is about to decide, to be explained when another one is in force."""
    in_force = decider.in_force()
    if in_force is not None:
        async with database.transaction() as tx:
            await history.keep_definition(tx, in_force.version, in_force.rules.definition)
            await uses.in_force(tx, [rule.name for rule in in_force.rules.definition.rules], clock())


def _forgetting(database: Database, clock: Clock, days: int) -> Callable[[], Awaitable[None]]:
    async def forget() -> None:
        while True:
            removed = 1
            async with database.transaction() as tx:
                await ordered.forget(tx, clock() - timedelta(days=days))
            while removed:
                async with database.transaction() as tx:
                    removed = await history.prune(tx, clock() - timedelta(days=days))
            await asyncio.sleep(_FORGET_AGAIN)

    return forget
