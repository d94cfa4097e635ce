"""The loop that shows what there is to do, and how long it will take."""

import asyncio
import time

from libs.clock import Clock
from libs.storage.database import Database
from services.egress import calls, comparison_rows, listing, metric
from services.egress.forecast import seconds_left

_OFTEN = 15
#: A backlog of days takes a while to count: no more than a part in so many of the time goes into that.
_PART = 30


class Measurement:
    """Shows the figures of the queues."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def run(self) -> None:
        """Show the figures every 15 s, or less often if it takes long; until cancelled."""
        while True:
            began = time.monotonic()
            await self.measure()
            await asyncio.sleep(max(_OFTEN, _PART * (time.monotonic() - began)))

    async def measure(self) -> None:
        """Show the figures once."""
        now = self._clock()
        async with self._database.reading() as tx:
            states = await listing.count_by_state(tx)
            queues = await listing.queues(tx)
            flows = await listing.flows(tx, now)
            circuits = await calls.circuits(tx)
            missing = await comparison_rows.missing(tx)
        metric.show(states, {key: (queue.deliveries, queue.oldest) for key, queue in queues.items()}, now)
        metric.show_missing(missing)
        away = {key for key, circuit in circuits.items() if circuit.failures or circuit.paused}
        left = {key: None if key in away else seconds_left(queue, flows.get(key), now) for key, queue in queues.items()}
        metric.show_queues(queues, left, [key for key, circuit in circuits.items() if circuit.paused])
