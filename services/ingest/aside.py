"""Puts aside what is not taken into a study, for people to look at: the bytes, a row, and an event."""

import asyncio
from collections.abc import Awaitable, Callable

from sqlalchemy.ext.asyncio import AsyncSession

from contracts.instances import InstanceQuarantined
from libs.dicom import part10, uid
from libs.messaging.outbox import Outbox
from libs.storage.database import Database
from libs.storage.objects import ObjectStore
from libs.telemetry import log
from services.ingest import holding, identity, metric
from services.ingest.arrival import Entry
from services.ingest.holding import State
from services.ingest.identity import Objection
from services.ingest.repository import RacedError
from services.ingest.spool import Spool, examine

_LOG = log.get(__name__)
#: What else belongs into the transaction that puts an entry aside; is told where it is.
Also = Callable[[AsyncSession, str], Awaitable[None]]


async def _nothing(_tx: AsyncSession, _quarantine_id: str) -> None:
    return


class Aside:
    """The quarantine's entrance. What an entry waits for is repeated with it: every step may be done again."""

    def __init__(self, database: Database, objects: ObjectStore, spool: Spool, outbox: Outbox) -> None:
        self._database = database
        self._objects = objects
        self._spool = spool
        self._outbox = outbox

    async def reject(self, entry: Entry) -> None:
        """Quarantine what was answered with a failure; the same verdict as before the answer."""
        objection = entry.objection or await asyncio.to_thread(_verdict, entry)
        if objection is None:
            # Only a newer release can find nothing wrong; the sender was told a failure, so nothing was promised.
            objection = Objection(identity.CANNOT_UNDERSTAND, "unreadable-dataset", "the release before refused it")
        await self.put(entry, objection)

    async def put(self, entry: Entry, objection: Objection, *, state: State = "open", also: Also = _nothing) -> None:
        """Put an entry aside; it is gone from the spool when this returns. Raises RacedError: try again."""
        async with self._database.transaction() as tx:
            place = await holding.count_again(tx, entry, objection)
            if place is not None:
                await also(tx, place)
        if place is None:
            await asyncio.to_thread(self._objects.keep, {entry.quarantine_key: entry.path})
            async with self._database.transaction() as tx:
                place = await self._record(tx, entry, objection, state)
                await also(tx, place)
        if place != entry.arrival.id:
            # It is there if an attempt before this one got no further than the object.
            await asyncio.to_thread(self._objects.delete, entry.quarantine_key)
        # With ack=object-store it may be there under the key of an object that was never indexed.
        if entry.accepted:
            await asyncio.to_thread(self._objects.delete, entry.object_key)
        metric.INDEXED.labels(outcome="quarantined").inc()
        say = _LOG.error if objection.reason == "content-conflict" else _LOG.warning
        say(
            "instance quarantined",
            reason=objection.reason,
            advice="kivuko quarantine list",
            key=entry.quarantine_key,
            node=entry.arrival.source.node,
            association=entry.arrival.association_id,
        )
        await asyncio.to_thread(self._spool.discard, entry.path)

    async def _record(self, tx: AsyncSession, entry: Entry, objection: Objection, state: State) -> str:
        """Write the row and its event; give the entry's id, another's if the same bytes were put aside just now.

        Raises RacedError if neither is there.
        """
        arrival = entry.arrival
        study_uid, sop_uid = _valid(entry.study_uid), _valid(arrival.sop_instance_uid)
        if not await holding.put_aside(tx, entry, objection, (study_uid, sop_uid), state):
            if await holding.has(tx, arrival.id):
                return arrival.id
            place = await holding.count_again(tx, entry, objection)
            if place is None:
                raise RacedError
            return place
        event = InstanceQuarantined(
            quarantine_id=arrival.id,
            reason=objection.reason,
            detail=objection.detail,
            study_instance_uid=study_uid,
            sop_instance_uid=sop_uid,
            source=arrival.source,
            size=entry.size,
        )
        subject = study_uid or arrival.id
        await self._outbox.emit(tx, event, subject=subject, tenant=arrival.tenant, site=arrival.source.site)
        return arrival.id


def _verdict(entry: Entry) -> Objection | None:
    with entry.path.open("rb") as file:
        part10.decode(file)
        return examine(entry.arrival, file)[1]


def _valid(text: str) -> str | None:
    return text if uid.is_valid(text) else None
