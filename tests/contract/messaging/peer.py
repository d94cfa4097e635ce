"""A process of its own that the tests kill: `python -m tests.contract.messaging.peer WHAT BROKER_URL DATABASE_URL`.

It says on standard output what it has reached, one line each.
"""

import asyncio
import os
import signal
import sys

from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.envelope import Event
from contracts.study import StudyCompleted
from libs.clock import utc_now
from libs.messaging.consume import consume
from libs.messaging.outbox import Outbox
from libs.messaging.relay import Relay
from tests.contract.messaging.station import Station, event, make_tables, note, study, tables


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def handle(station: Station) -> None:
    """Take one event and stay in the middle of handling it."""

    @consume(station.broker, "rules", StudyCompleted, station.database, tables, utc_now)
    async def on_study(event: Event[StudyCompleted], tx: AsyncSession) -> None:
        await tx.execute(insert(note).values(text="of a handler that never came to its end"))
        say(f"handling {event.id}")
        await asyncio.Event().wait()

    await make_tables(station.database)
    await station.start()
    say("started")
    await asyncio.Event().wait()


async def handle_some(station: Station) -> None:
    """Take events, and stay in the middle of the third."""
    taken: list[str] = []

    @consume(station.broker, "rules", StudyCompleted, station.database, tables, utc_now)
    async def on_study(event: Event[StudyCompleted], tx: AsyncSession) -> None:
        taken.append(event.id)
        await tx.execute(insert(note).values(text=event.id))
        if len(taken) == 3:
            say("third")
            await asyncio.Event().wait()

    await station.start()
    await asyncio.Event().wait()


async def die(station: Station) -> None:
    """Take events, and end as a power cut would at the one that is called poison."""

    @consume(station.broker, "rules", StudyCompleted, station.database, tables, utc_now)
    async def on_study(event: Event[StudyCompleted], tx: AsyncSession) -> None:
        if event.id == "poison":
            os.kill(os.getpid(), signal.SIGKILL)
        await tx.execute(insert(note).values(text=event.id))

    await station.start()
    await asyncio.Event().wait()


async def publish(station: Station) -> None:
    """Publish without end, and say what was confirmed."""
    await station.start()
    number = 0
    while True:
        batch = [f"event-{number + i}" for i in range(20)]
        await asyncio.gather(*(station.publish(event(id=id_)) for id_ in batch))
        for id_ in batch:
            say(id_)
        number += len(batch)


async def emit(station: Station) -> None:
    """Commit events into the outbox without end while a relay runs, and say what was committed."""
    await make_tables(station.database)
    await station.start()
    outbox = Outbox("ingest", "local", utc_now, tables)
    relay = asyncio.create_task(Relay(station.database, station.broker, tables, utc_now).run())
    while not relay.done():
        async with station.database.transaction() as tx:
            id_ = await outbox.emit(tx, study(), subject="1.2.3", tenant="default")
        say(id_)
    await relay


async def hold(station: Station) -> None:
    """Have the broker, and do nothing."""
    await station.start()
    say("started")
    await asyncio.Event().wait()


if __name__ == "__main__":
    what, broker_url, database_url, service = sys.argv[1:]
    deeds = {"handle": handle, "handle_some": handle_some, "die": die, "publish": publish, "emit": emit, "hold": hold}
    asyncio.run(deeds[what](Station(broker_url, database_url, service, instance="peer")))
