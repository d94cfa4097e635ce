"""Puts aside what is not taken into a study, for people to look at: the bytes, a row, and an event."""

import asyncio

from contracts.instances import InstanceQuarantined
from libs.dicom import part10, uid
from libs.messaging.outbox import Outbox
from libs.storage.database import Database
from libs.storage.objects import ObjectStore
from libs.telemetry import log
from services.ingest import identity, metric, repository
from services.ingest.arrival import Entry
from services.ingest.identity import Objection
from services.ingest.spool import Spool, examine

_LOG = log.get(__name__)


class Aside:
    """The quarantine's entrance. What an entry waits for is repeated with it: every step may be done again."""

    def __init__(self, database: Database, objects: ObjectStore, spool: Spool, outbox: Outbox) -> None:
        self._database = database
        self._objects = objects
        self._spool = spool
        self._outbox = outbox

    async def reject(self, entry: Entry) -> None:
        """Quarantine what was answered with a failure; the same verdict as before the answer."""
        objection = await asyncio.to_thread(_verdict, entry)
        if objection is None:
            # Only a newer release can find nothing wrong; the sender was told a failure, so nothing was promised.
            objection = Objection(identity.CANNOT_UNDERSTAND, "unreadable-dataset", "the release before refused it")
        await self.put(entry, objection)

    async def put(self, entry: Entry, objection: Objection) -> None:
        """Put an entry aside; it is gone from the spool when this returns."""
        async with self._database.transaction() as tx:
            repeated = await repository.quarantined(tx, entry, objection)
        if not repeated:
            await asyncio.to_thread(self._objects.keep, {entry.quarantine_key: entry.path})
            sop_uid = _valid(entry.arrival.sop_instance_uid)
            study_uid = _valid(entry.study_uid)
            async with self._database.transaction() as tx:
                added = await repository.put_aside(tx, entry, objection, study_uid, sop_uid)
                if added:
                    await self._outbox.emit(
                        tx,
                        InstanceQuarantined(
                            quarantine_id=entry.arrival.id,
                            reason=objection.reason,
                            detail=objection.detail,
                            study_instance_uid=study_uid,
                            sop_instance_uid=sop_uid,
                            source=entry.arrival.source,
                            size=entry.size,
                        ),
                        subject=study_uid or entry.arrival.id,
                        tenant=entry.arrival.tenant,
                        site=entry.arrival.source.site,
                    )
                mine = added or await repository.quarantine_has(tx, entry.arrival.id)
                if not mine:
                    # The same bytes came twice at once, and the other was first.
                    await repository.quarantined(tx, entry, objection)
            if not mine:
                await asyncio.to_thread(self._objects.delete, entry.quarantine_key)
        # With ack=object-store it may be there under the key of an object that was never indexed.
        if objection.reason == "content-conflict":
            await asyncio.to_thread(self._objects.delete, entry.object_key)
        metric.INDEXED.labels(outcome="quarantined").inc()
        say = _LOG.error if objection.reason == "content-conflict" else _LOG.warning
        say(
            "instance quarantined",
            reason=objection.reason,
            advice="see GET /v1/ingest/quarantine",
            key=entry.quarantine_key,
            node=entry.arrival.source.node,
            association=entry.arrival.association_id,
        )
        await asyncio.to_thread(self._spool.discard, entry.path)


def _verdict(entry: Entry) -> Objection | None:
    with entry.path.open("rb") as file:
        part10.decode(file)
        return examine(entry.arrival, file)[1]


def _valid(text: str) -> str | None:
    return text if uid.is_valid(text) else None
