"""Orders meet studies: each study that is complete is given its order, and what stays alone is told."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.envelope import Event
from contracts.fact import Attributes
from contracts.study import StudyAmended, StudyCompleted
from libs.clock import Clock
from libs.messaging.listen import DATABASE_AWAY
from libs.messaging.outbox import Outbox
from libs.storage.database import Database
from libs.telemetry import log, metric
from services.worklist import link_rows, matching_rows, repository
from services.worklist.filing import Zones
from services.worklist.linking import tell
from services.worklist.match import Came, is_named, match

_LOG = log.get(__name__)
_ASTRAY = metric.gauge(
    "kivuko_worklist_astray", "Studies without order, and orders without study after their time.", ("kind",)
)
#: Seconds between two looks at what stays alone.
_EVERY: Final = 60.0
_TEXT: Final = "%Y%m%d%H%M%S"


class Meeting:
    """Gives studies their orders.

    Parameters
    ----------
    zones
        Gives the time zone of a site.
    order_grace, study_grace
        How long after its start an order may be without a study, and a complete study without an order.
    looked_back
        How far back is looked: what is older was told long ago.
    """

    def __init__(
        self,
        zones: Zones,
        clock: Clock,
        outbox: Outbox,
        *,
        order_grace: timedelta,
        study_grace: timedelta,
        looked_back: timedelta,
    ) -> None:
        self._zones = zones
        self._clock = clock
        self._outbox = outbox
        self.order_grace = order_grace
        self.study_grace = study_grace
        self.looked_back = looked_back
        self._told = (0, 0)

    async def completed(self, event: Event[StudyCompleted] | Event[StudyAmended], tx: AsyncSession) -> None:
        """Keep what matching needs of a study, and find its order."""
        # Orders that are just being written come before or after, never at the same time unseen.
        counters = await repository.lock(tx)
        said = event.data
        row = await matching_rows.keep_study(
            tx,
            {
                "tenant": event.tenant,
                "study_instance_uid": said.study_instance_uid,
                "site": said.source.site,
                "accession": _text(said.attributes, "AccessionNumber", 64),
                "patient": _text(said.attributes, "PatientID", 199),
                "issuer": _text(said.attributes, "IssuerOfPatientID", 199),
                "modality": _text(said.attributes, "Modality", 16),
                "contradicts": False,
                "first_seen_at": said.first_arrival,
                "completed_at": event.time,
            },
        )
        if row.order_id is not None:
            await self._look_again(tx, row)
            return
        given = counters.revision
        await tell(tx, self._outbox, await self._match(tx, row), counters, self._clock())
        if counters.revision != given:
            await repository.give_back(tx, counters)

    async def placed(self, tx: AsyncSession, tenant: str, uids: Sequence[str], accessions: Sequence[str]) -> set[int]:
        """Find the studies of orders that came after them; give the orders that have others than before."""
        found: set[int] = set()
        for row in await matching_rows.unmatched_for(tx, tenant, uids, accessions):
            found |= await self._match(tx, row)
        return found

    async def moved(self, tx: AsyncSession, wholes: Mapping[int, Sequence[int]]) -> set[int]:
        """Give the studies of orders that became parts of others to these; give these.

        What was found for a part that belongs to several others is to be matched anew; what people said stays said.
        """
        for part, those in wholes.items():
            if len(those) > 1:
                for study_id in await link_rows.not_by_hand(tx, part):
                    await link_rows.free(tx, study_id)
            await link_rows.move(tx, part, those[0])
        return {each for those in wholes.values() for each in those}

    async def compare(self, tx: AsyncSession, patient_ids: Collection[int]) -> None:
        """See anew which studies and orders of patients name different ones, after merges and changes of orders."""
        if patient_ids:
            for row in await matching_rows.matched_of(tx, patient_ids):
                await self._look_again(tx, row)

    async def _look_again(self, tx: AsyncSession, row: Row[Any]) -> None:
        if row.matched_by == "hand":
            return
        known = await matching_rows.patients_of(tx, row.order_id)
        contradicts = bool(row.patient) and not is_named(row.patient, row.issuer, known)
        if contradicts == row.contradicts:
            return
        await matching_rows.contradict(tx, row.id, contradicts)
        if contradicts:
            _alarm(row)

    async def _match(self, tx: AsyncSession, row: Row[Any]) -> set[int]:
        """Find the order of a study; give the orders that have others than before."""
        zone = self._zones(row.site or "")
        at = row.first_seen_at.astimezone(zone).replace(tzinfo=None)
        came = Came(row.study_instance_uid, row.accession, row.patient, row.issuer, row.site or "", row.modality, at)
        taken_from = await link_rows.orders_without(tx, row.tenant, row.study_instance_uid)
        candidates = [one for one in await matching_rows.candidates(tx, row) if one.order_id not in taken_from]
        found = match(came, candidates)
        # Only a number counts more than the patient.
        if found is None or found.order_id == row.order_id or (row.order_id is not None and found.how == "patient"):
            return set()
        await matching_rows.link(tx, row.id, found)
        if found.contradicts:
            _alarm(row)
        return {found.order_id} if row.order_id is None else {found.order_id, row.order_id}

    def studies_between(self) -> tuple[datetime, datetime]:
        """Give when studies were complete that should have an order by now."""
        now = self._clock()
        return now - self.looked_back, now - self.study_grace

    def orders_between(self) -> tuple[str, str]:
        """Give when orders start that should have a study by now."""
        now = self._clock().astimezone(self._zones(""))
        return (now - self.looked_back).strftime(_TEXT), (now - self.order_grace).strftime(_TEXT)

    async def watch(self, database: Database) -> None:
        """Count what stays alone, and raise an alarm when there is more of it; until cancelled."""
        while True:
            try:
                await self.look(database)
            except DATABASE_AWAY as error:
                _LOG.warning("what stays alone can't be counted, trying again", error=type(error).__name__)
            await asyncio.sleep(_EVERY)

    async def look(self, database: Database) -> tuple[int, int]:
        """Count studies without order and orders without study."""
        async with database.reading() as tx:
            found = await matching_rows.count_astray(tx, *self.studies_between(), *self.orders_between())
        for kind, count, before in zip(("studies", "orders"), found, self._told, strict=True):
            _ASTRAY.labels(kind=kind).set(count)
            if count > before:
                if kind == "studies":
                    _LOG.error("studies have no order: see `kivuko worklist unmatched`", count=count, kind="alarm")
                else:
                    _LOG.error("orders stay without study: see `kivuko worklist unmatched`", count=count, kind="alarm")
        self._told = found
        return found


def _alarm(row: Row[Any]) -> None:
    _LOG.error(
        "a study and its order name different patients: see `kivuko worklist unmatched`",
        study_uid=row.study_instance_uid,
        tenant=row.tenant,
        kind="alarm",
    )


def _text(attributes: Attributes, keyword: str, longest: int) -> str:
    value = attributes.get(keyword, "")
    first = value[0] if isinstance(value, list) and value else value
    return str(first).strip()[:longest] if first != [] else ""
