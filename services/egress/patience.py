"""How long egress tries by itself: then a delivery is parked, or goes to the alternate of its destination."""

import asyncio
from datetime import datetime, timedelta
from itertools import count
from typing import Final

from sqlalchemy import ColumnElement, and_, not_

from contracts.definition import Definition
from libs.clock import Clock
from libs.messaging.listen import DATABASE_AWAY
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.telemetry import log
from services.egress import calls, listing, repository
from services.egress.backoff import Circuit
from services.egress.deliveries import Deliveries
from services.egress.diversion import divert
from services.egress.failover import alternate
from services.egress.models import deliveries as table
from services.egress.reach import Obstacle
from services.egress.repository import TURN
from services.egress.settings import EgressSettings

#: Deliveries that are read at once; each is changed in a transaction of its own.
_AT_ONCE: Final = 100
#: Between two looks, in seconds.
_EVERY: Final = 10.0
#: What is given up after days need not be looked for as often.
_GIVE_UP_TURNS: Final = 6
_DAY: Final = 86400.0
_log = log.get(__name__)


class Patience:
    """Sees to what egress must not go on with by itself. Any number of replicas may do so at once."""

    def __init__(
        self, database: Database, deliveries: Deliveries, network: NetworkView, settings: EgressSettings, clock: Clock
    ) -> None:
        self._database = database
        self._deliveries = deliveries
        self._network = network
        self._settings = settings
        self._clock = clock

    async def run(self) -> None:
        """Look every few seconds, until cancelled."""
        for turn in count():
            try:
                await self.end_holds()
                await self.fail_over()
                if turn % _GIVE_UP_TURNS == 0:
                    await self.give_up()
            except DATABASE_AWAY:
                _log.exception("deliveries can't be read, trying again")
            await asyncio.sleep(_EVERY)

    async def end_holds(self) -> int:
        """Let go what rules held until now; give the number of deliveries."""
        over = repository.hold_over(self._clock())
        number, after = 0, ""
        while keys := await self._keys(over, after):
            for key in keys:
                async with self._database.transaction() as tx:
                    if await repository.lock_fitting(tx, key, over):
                        await repository.update_delivery(tx, key, hold_rule=None, hold_until=None)
                        await self._deliveries.reconsider(tx, key)
                        number += 1
            after = keys[-1]
        return number

    async def give_up(self) -> int:
        """Park what has been tried for longer than its destination says; give the number of deliveries."""
        async with self._database.reading() as tx:
            names = await repository.unfinished_destinations(tx)
        number = 0
        for name in names:
            await self._note_times(name)
            seconds = self._patience(name)
            overdue = and_(self._since(name, self._clock() - timedelta(seconds=seconds)), repository.UNSENT)
            after = ""
            while keys := await self._keys(overdue, after):
                for key in keys:
                    number += await self._park(key, overdue, seconds)
                after = keys[-1]
        return number

    async def fail_over(self) -> int:
        """Divert what waits for destinations that are out of reach; give the number of deliveries."""
        snapshot = self._network.current
        if snapshot is None:
            return 0
        async with self._database.reading() as tx:
            circuits = await calls.circuits(tx)
        number = 0
        for name, circuit in circuits.items():
            destination = snapshot.definition.destinations.get(name)
            if destination is not None and destination.failover is not None and self._is_out_of_reach(name, circuit):
                number += await self._divert_all(name, snapshot.definition, circuits)
        if number:
            _log.warning("deliveries go to the alternate of their destination", count=number)
        return number

    def _patience(self, destination: str) -> float:
        snapshot = self._network.current
        known = None if snapshot is None else snapshot.definition.destinations.get(destination)
        return self._settings.give_up if known is None or known.give_up is None else known.give_up

    async def _note_times(self, name: str) -> None:
        """Note of deliveries from a release that did not since when they are tried: since now."""
        async with self._database.reading() as tx:
            unknown = await repository.untimed(tx, name)
        if unknown:
            async with self._database.transaction() as tx:
                await repository.note_times(tx, name, self._clock())

    def _since(self, destination: str, until: datetime) -> ColumnElement[bool]:
        """Tell which deliveries have been tried since a time or for longer."""
        return and_(table.c.destination == destination, TURN, table.c.wanted_since <= until)

    async def _keys(self, condition: ColumnElement[bool], after: str) -> list[str]:
        async with self._database.reading() as tx:
            return await listing.keys(tx, condition, after, _AT_ONCE)

    async def _park(self, key: str, overdue: ColumnElement[bool], seconds: float) -> bool:
        async with self._database.transaction() as tx:
            if not await repository.lock_fitting(tx, key, overdue):
                return False
            row = await repository.lock_delivery(tx, key)
            if row is None:
                return False
            problem = row.reason or "it was under way, or never had its turn"
            why = f"tried for {_lasting(seconds)}: {problem}; see its instances, then `kivuko delivery retry`"
            await repository.update_delivery(tx, key, given_up=why)
            await self._deliveries.reconsider(tx, key)
        return True

    def _is_out_of_reach(self, destination: str, circuit: Circuit) -> bool:
        """Tell whether a destination has taken nothing for too long, though it may be called now."""
        now, limits = self._clock(), self._deliveries.limits(destination)
        if circuit.paused or limits is None or limits.opens_at(now) is not None:
            return False
        if isinstance(self._deliveries.reach(destination), Obstacle):
            return False
        return circuit.out_of_reach(now, self._settings.failover_after)

    async def _divert_all(self, name: str, definition: Definition, circuits: dict[str, Circuit]) -> int:
        known = circuits[name]
        if known.failed_at is None:
            return 0
        # What was asked for after the last call may well get there: that call is still to come.
        # What lacks only its confirmation has been taken in full.
        condition = and_(self._since(name, known.failed_at), not_(table.c.stays), table.c.confirm_at.is_(None))
        number, after = 0, ""
        while True:
            async with self._database.reading() as tx:
                rows = await listing.sources_of(tx, condition, after, _AT_ONCE)
            for key, source_node in rows:
                to = alternate(definition, name, source_node, lambda other: self._in_reach(other, circuits))
                if to is not None:
                    number += await self._divert(name, key, to, condition)
            if len(rows) < _AT_ONCE:
                return number
            after = rows[-1][0]

    def _in_reach(self, destination: str, circuits: dict[str, Circuit]) -> bool:
        """Tell whether something may go to an alternate, as far as is known."""
        circuit = circuits.get(destination, Circuit())
        if circuit.paused or isinstance(self._deliveries.reach(destination), Obstacle):
            return False
        return not circuit.out_of_reach(self._clock(), self._settings.failover_after)

    async def _divert(self, name: str, key: str, to: str, condition: ColumnElement[bool]) -> bool:
        async with self._database.transaction() as tx:
            now = self._clock()
            circuit = await calls.lock_circuit(tx, name, wait=True)
            if circuit is None or circuit.failing_since is None or not self._is_out_of_reach(name, circuit):
                return False
            why = f"{name} has been out of reach since {circuit.failing_since:%Y-%m-%d %H:%M} UTC: {circuit.problem}"
            return await divert(self._deliveries, tx, key, to, now, fitting=condition, by=None, why=why)


def _lasting(seconds: float) -> str:
    """Say how long that is, for people."""
    for unit, length in (("day", _DAY), ("hour", 3600.0), ("minute", 60.0)):
        if seconds >= length and seconds % length == 0:
            number = int(seconds / length)
            return f"{number} {unit}" if number == 1 else f"{number} {unit}s"
    return f"{seconds:g} s"
