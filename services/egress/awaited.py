"""Secrets that transforms wait for: people are told, they are looked for again and again, and what waited goes on."""

import asyncio
from typing import Final

from sqlalchemy import select, update

from libs.clock import Clock
from libs.messaging.listen import DATABASE_AWAY
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.telemetry import log
from services.egress import lease, metric, repository
from services.egress.deliveries import WORK, Deliveries
from services.egress.models import deliveries as table
from services.egress.models import items
from services.egress.outcome import NO_SECRET
from services.egress.project import NoSecretError, Projects
from services.egress.transforming import Transforming

#: Between two looks, in seconds.
_EVERY: Final = 10.0
_LACKING: Final = (items.c.state == "pending", items.c.status == NO_SECRET)
_log = log.get(__name__)


class Awaited:
    """Sees to what waits for a secret, for this replica: it has its own folder of them.

    What waits for one of a destination's own transform is held; what waits for one of a rule's is tried again.

    Parameters
    ----------
    database, deliveries, network, clock
        Of egress.
    projects
        Where the secrets are.
    transforming
        Knows for which secrets it could not do what rules ask for.
    """

    def __init__(
        self,
        database: Database,
        deliveries: Deliveries,
        network: NetworkView,
        projects: Projects,
        transforming: Transforming,
        clock: Clock,
    ) -> None:
        self._database = database
        self._deliveries = deliveries
        self._network = network
        self._projects = projects
        self._transforming = transforming
        self._clock = clock
        self._obstacles: dict[str, str] = {}
        self._told: set[str] = set()

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        while True:
            try:
                await self.look()
            except DATABASE_AWAY:
                _log.exception("what waits for a secret can't be read, trying again")
            await asyncio.sleep(_EVERY)

    async def look(self) -> None:
        """Look once."""
        await self._destinations()
        await self._rules()
        lacking = self._transforming.lacking.values()
        metric.show_awaited({*self._obstacles, *(name for waiting in lacking for name in waiting)})

    async def _destinations(self) -> None:
        snapshot = self._network.current
        if snapshot is None:
            return
        names = self._deliveries.destinations()
        self._obstacles = {name: why for name, why in self._obstacles.items() if name in names}
        for name in names:
            obstacle = self._projects.obstacle(snapshot.definition, name)
            if obstacle == self._obstacles.get(name):
                continue
            async with self._database.transaction() as tx:
                await self._deliveries.hold_or_release(tx, name)
            await self._deliveries.settle_held(name)
            # Noted only now: what went wrong until here is done again.
            if obstacle is None:
                del self._obstacles[name]
                _log.info("a secret that was waited for is there", destination=name)
            else:
                self._obstacles[name] = obstacle
                _alarm(name, obstacle)

    async def _rules(self) -> None:
        for secret, waiting in list(self._transforming.lacking.items()):
            try:
                self._projects.secret(secret)
            except NoSecretError as error:
                for name in sorted(waiting - self._told):
                    _alarm(name, str(error))
                self._told |= waiting
                continue
            # Whoever lacks it from now on is told of anew.
            del self._transforming.lacking[secret]
            self._told -= waiting
            for name in sorted(waiting):
                await self._let_go(name)

    async def _let_go(self, destination: str) -> None:
        mine = select(table.c.id).where(table.c.destination == destination, repository.TURN)
        async with self._database.reading() as tx:
            keys = list(await tx.scalars(select(items.c.delivery_id).where(items.c.delivery_id.in_(mine), *_LACKING)))
        for key in sorted(set(keys)):
            async with self._database.transaction() as tx:
                await repository.lock_delivery(tx, key)
                await tx.execute(
                    update(items).where(items.c.delivery_id == key, *_LACKING).values(next_attempt_at=self._clock())
                )
                await lease.make_due(tx, key)
                await self._deliveries.give_state(tx, key)
                tx.info[WORK] = True


def _alarm(destination: str, reason: str) -> None:
    _log.error(
        "deliveries wait for a secret of a transform",
        destination=destination,
        reason=reason,
        kind="alarm",
        advice="put the secret in its place; what waits goes on by itself",
    )
