"""Processes that are killed in the middle of something."""

import asyncio
from collections.abc import Callable
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.envelope import Event
from contracts.study import StudyCompleted
from libs.clock import utc_now
from libs.messaging.consume import consume
from libs.messaging.relay import Relay
from tests.contract.messaging.station import PATIENCE_S, Station, event, make_tables, note, tables, until

pytestmark = [pytest.mark.contract, pytest.mark.crash]


async def test_an_event_whose_handler_was_killed_is_handled_again(
    station: Station, start_peer: Callable[..., Any]
) -> None:
    early = Station(station.broker_url, station.database_url, "ingest")
    await early.start()
    await early.publish(event(id="survivor"))
    await early.close()
    peer = start_peer("handle", station.broker_url, station.database_url, "rules")
    while (line := await asyncio.to_thread(peer.line)) != "handling survivor":
        assert line == "started"
    peer.kill()
    redelivered: asyncio.Queue[str] = asyncio.Queue()

    @consume(station.broker, "rules", StudyCompleted, station.database, tables, utc_now)
    async def handle(event: Event[StudyCompleted], tx: AsyncSession) -> None:
        await tx.execute(insert(note).values(text="handled"))
        await redelivered.put(event.id)

    await station.start()
    assert await asyncio.wait_for(redelivered.get(), PATIENCE_S) == "survivor"

    async def handled() -> bool:
        return await station.notes() == ["handled"]

    await until(handled, "what the killed handler wrote is gone, what the second wrote is there")


async def test_what_was_confirmed_to_a_killed_publisher_is_there(
    station: Station, start_peer: Callable[..., Any]
) -> None:
    peer = start_peer("publish", station.broker_url, station.database_url, "ingest")
    confirmed = {await asyncio.to_thread(peer.line) for _ in range(200)}
    peer.kill()
    confirmed |= set(peer.rest())
    await take_all(station, confirmed)


async def test_what_was_committed_by_a_killed_producer_is_delivered(
    station: Station, start_peer: Callable[..., Any]
) -> None:
    peer = start_peer("emit", station.broker_url, station.database_url, "ingest")
    committed = {await asyncio.to_thread(peer.line) for _ in range(50)}
    peer.kill()
    committed |= set(peer.rest())
    producer = Station(station.broker_url, station.database_url, "ingest")
    # What the dead relay had leased is due when its lease has run out: time is passed in.
    relay = Relay(producer.database, station.broker, tables, lambda: utc_now() + timedelta(hours=1))
    await station.broker.connect()
    while await relay.relay_once():
        pass
    await take_all(station, committed)
    assert await producer.rows(tables.outbox) == 0
    await producer.database.close()


async def take_all(station: Station, expected: set[str]) -> None:
    """Consume until everything expected has taken effect, each once."""

    @consume(station.broker, "rules", StudyCompleted, station.database, tables, utc_now)
    async def handle(event: Event[StudyCompleted], tx: AsyncSession) -> None:
        await tx.execute(insert(note).values(text=event.id))

    await make_tables(station.database)
    await station.start()

    async def all_there() -> bool:
        return expected <= set(await station.notes())

    await until(all_there, "every event")
    notes = await station.notes()
    assert len(notes) == len(set(notes))
