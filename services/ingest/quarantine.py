"""What people do with quarantined objects: release them into a study, corrected or as they are, or discard them.

A release is three steps, each of which may be done again after a crash. (1) A transaction says that the entry is
`releasing`, with all that was decided. (2) The dataset, rewritten where it was corrected, becomes an entry of the spool
under a name that step 1 gave it, and goes through the same checks and indexing as an arrival. (3) Once the index has
that name, a transaction makes the entry `released` and tells it. What is between 1 and 3 is taken up by `run`: the
bytes stay in the quarantine until 3, so that nothing is lost with the spool.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, Final

from sqlalchemy import Row, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.instances import QuarantineResolved
from libs.clock import Clock
from libs.messaging.outbox import Outbox
from libs.storage.database import Database
from libs.storage.objects import ObjectStore, StoreFullError, StoreUnavailableError
from libs.telemetry import log, trace
from libs.web.principal import Principal
from services.ingest import holding, metric
from services.ingest.arrival import Arrival, Entry, arrival_id
from services.ingest.candidate import RefusedError, Shelf, Wish
from services.ingest.completion import SILENT_AFTER
from services.ingest.contest import RELEASE
from services.ingest.disk import SpoolFullError, SpoolUnavailableError
from services.ingest.holding import UNDECIDED
from services.ingest.models import arrivals, instances, studies
from services.ingest.repository import utc
from services.ingest.ruled import Ruled
from services.ingest.spool import Spool
from services.ingest.work import Work

_LOG = log.get(__name__)
#: What is expected to mend itself.
_PASSING = (SQLAlchemyError, StoreUnavailableError, StoreFullError, SpoolFullError, SpoolUnavailableError, OSError)
_ROUND_EVERY: Final = 60.0
#: A release that ends nowhere so often is given back to people.
_MOST_ATTEMPTS: Final = 3


@dataclass(frozen=True)
class Prospect:
    """What a release comes to.

    Attributes
    ----------
    study_uid, series_uid, sop_class_uid, sop_uid
        Under which it will be taken.
    corrected
        DICOM keywords of the attributes that change.
    new_study
        Whether there is no such study yet.
    replaces
        Whether another content is kept under the SOP Instance UID, whose place it takes.
    """

    study_uid: str
    series_uid: str
    sop_class_uid: str
    sop_uid: str
    corrected: tuple[str, ...]
    new_study: bool
    replaces: bool


class Quarantine:
    """The quarantine's exit.

    Parameters
    ----------
    submit
        Hands an entry to the indexer.
    replica
        Name of this replica.
    noise
        Random bytes for names.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        spool: Spool,
        work: Work,
        outbox: Outbox,
        *,
        submit: Callable[[Entry], None],
        replica: str,
        clock: Clock,
        noise: Callable[[int], bytes],
    ) -> None:
        self._database = database
        self._objects = objects
        self._shelf = Shelf(objects, spool)
        self._work = work
        self._outbox = outbox
        self._submit = submit
        self._replica = replica
        self._clock = clock
        #: What rules put aside is decided on without any bytes.
        self.ruled: Final = Ruled(database, outbox, clock)
        self._noise = noise
        self._wake = asyncio.Event()
        self._decided = asyncio.Condition()
        self._entering: set[str] = set()
        self._attempts: dict[str, int] = {}

    def changed(self) -> None:
        """Look again: something was indexed. From the event loop only."""
        self._wake.set()

    async def look(self, row: Row[Any], wish: Wish, caller: Principal) -> Prospect:
        """Say what a release would come to, and change nothing. Raises RefusedError, and what the object store does.

        What a sender named it may bring into any study of its tenant, as it does when it arrives. What a person names,
        or has replaced, has to be in that person's scope.
        """
        _require_undecided(row)
        reading = await asyncio.to_thread(self._shelf.read, row, wish, self._clock())
        found = reading.found
        async with self._database.reading() as tx:
            kept = await holding.kept(tx, row.tenant, found.sop_instance_uid)
            sites = await holding.sites_of(tx, row.tenant, found.study_instance_uid)
        replaces = kept is not None and (bool(reading.corrected) or kept.content_hash != row.content_hash)
        if kept is not None and kept.study_uid != found.study_instance_uid:
            raise RefusedError(
                "Another study's instance",
                "Another study of this tenant has an instance of this SOP Instance UID.",
                "Set SOPInstanceUID to a new UID, or StudyInstanceUID to that study's.",
            )
        if replaces and not wish.replace:
            raise RefusedError(
                "Other content is kept",
                "Another content is kept under this SOP Instance UID.",
                "Set SOPInstanceUID to a new UID to keep both, or ask to replace what is kept: it stays readable.",
            )
        named = replaces or "StudyInstanceUID" in reading.corrected
        if named and sites is not None and not caller.sees_study(row.tenant, sites):
            raise RefusedError(
                "Study out of scope",
                "There is such a study, and it is not in your scope.",
                "Ask someone who may see it to release this entry.",
            )
        return Prospect(
            study_uid=found.study_instance_uid,
            series_uid=found.series_instance_uid,
            sop_class_uid=found.sop_class_uid,
            sop_uid=found.sop_instance_uid,
            corrected=reading.corrected,
            new_study=sites is None,
            replaces=replaces,
        )

    async def release(self, row: Row[Any], wish: Wish, caller: Principal) -> Prospect:
        """Release an entry; it is `releasing` from here on, whatever happens. Raises as `look`."""
        prospect = await self.look(row, wish, caller)
        if row.id in self._entering:
            raise RefusedError("Decided already", "This entry is on its way into a study.", "Look at it in a moment.")
        # Before it is written down: `run` must not take it up as one that a crash has left.
        self._entering.add(row.id)
        try:
            await self._claim_and_enter(row, wish, prospect, caller.name)
        finally:
            self._entering.discard(row.id)
        self._wake.set()
        return prospect

    async def _claim_and_enter(self, row: Row[Any], wish: Wish, prospect: Prospect, by: str) -> None:
        now = self._clock()
        resolution = {
            **asdict(wish),
            "corrected": list(prospect.corrected),
            "arrival": arrival_id(now, self._noise(8)),
            "replica": self._replica,
            "before": row.state,
        }
        async with self._database.transaction() as tx:
            await self._locked(tx, row.id)
            await holding.set_state(tx, row.id, "releasing", at=now, by=by, resolution=resolution)
            claimed = await holding.lock(tx, row.id)
        if claimed is None:
            raise RuntimeError("an entry of the quarantine vanished while it was locked")
        await self._try_to_enter(claimed)

    async def discard(self, row: Row[Any], reason: str, by: str, *, delete: bool) -> None:
        """Decide that an entry never will be in a study; its bytes are kept unless they are to be deleted.

        Raises
        ------
        RefusedError
            It was decided on before; of a discarded one the bytes may be deleted later.
        """
        now = self._clock()
        async with self._database.transaction() as tx:
            found = await holding.lock(tx, row.id)
            if found is None:
                raise _gone()
            if found.state == "discarded" and delete and found.object_key:
                resolution = {**(found.resolution or {}), "deleted_by": by, "deleted_reason": reason}
                await holding.set_state(
                    tx, row.id, "discarded", at=utc(found.resolved_at), by=found.resolved_by, resolution=resolution
                )
            else:
                _require_undecided(found)
                resolution = {"reason": reason, "deleted_by": by if delete else None}
                await holding.set_state(tx, row.id, "discarded", at=now, by=by, resolution=resolution)
                event = QuarantineResolved(quarantine_id=row.id, resolution="discarded", reason=reason, principal=by)
                await self._emit(tx, found, event)
                metric.RESOLVED.labels(outcome="discarded").inc()
            if delete:
                await holding.let_go(tx, row.id, found.object_key, now)
        what = "its bytes deleted" if delete else "its bytes kept"
        _LOG.info("quarantined object discarded", item=row.id, tenant=row.tenant, reason=what)
        if delete:
            await self._remove(found.object_key)

    async def header(self, row: Row[Any]) -> dict[str, Any]:
        """Give an entry's whole header after the DICOM JSON Model, values of the patient included.

        Raises RefusedError if the bytes are no dataset, or are not there.
        """
        return await asyncio.to_thread(self._shelf.document, row)

    async def settled(self, entry_ids: list[str], seconds: float) -> None:
        """Wait until entries are not `releasing` any more, or for so long."""
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds), self._decided:
                while await self._any_releasing(entry_ids):
                    await self._decided.wait()

    async def run(self) -> None:
        """Bring releases to their end, until cancelled."""
        while True:
            self._wake.clear()
            try:
                await self._round()
            except _PASSING as error:
                metric.FAILURES.labels(kind="quarantine").inc()
                _LOG.warning("releases not looked at, tried again", reason=type(error).__name__)
            # Not `wait_for`: on Python 3.11 it swallows a cancellation that comes together with the wake-up.
            with suppress(TimeoutError):
                async with asyncio.timeout(_ROUND_EVERY):
                    await self._wake.wait()

    async def _round(self) -> None:
        in_hand = self._work.arrivals()
        now = self._clock()
        async with self._database.reading() as tx:
            rows = await holding.releasing(tx)
            indexed = {row.id for row in rows if await holding.is_indexed(tx, row.resolution["arrival"])}
            aside = {row.id for row in rows if await holding.has(tx, row.resolution["arrival"])}
        for row in rows:
            mine = row.resolution["replica"] == self._replica or abs(now - utc(row.resolved_at)) > SILENT_AFTER
            if row.id in indexed:
                await self._finish(row)
            elif row.id in aside:
                await self._give_back(row, "it was put aside again: see the latest entries of the quarantine")
            elif mine and row.id not in self._entering and not self._has(row, in_hand):
                self._entering.add(row.id)
                try:
                    await self._try_to_enter(row)
                finally:
                    self._entering.discard(row.id)

    def _has(self, row: Row[Any], before: set[str]) -> bool:
        """Tell whether a release is in hand: it was before the index was asked, or came since."""
        return row.resolution["arrival"] in before | self._work.arrivals()

    async def _try_to_enter(self, row: Row[Any]) -> None:
        """Put a claimed entry into the spool; what fails for now is tried again, what fails for good is given back."""
        self._attempts[row.id] = self._attempts.get(row.id, 0) + 1
        if self._attempts[row.id] > _MOST_ATTEMPTS:
            await self._give_back(row, "it did not reach the index: the same bytes are in the quarantine already")
            return
        try:
            entry = await asyncio.to_thread(self._enter, row)
            arrival = entry.arrival
            self._work.spooled(arrival.id, arrival.association_id, entry.study, arrival.received_at)
            self._submit(entry)
        except RefusedError as error:
            await self._give_back(row, error.detail)
        except _PASSING as error:
            self._attempts[row.id] -= 1
            metric.FAILURES.labels(kind="quarantine").inc()
            reason = str(error) if getattr(type(error), "safe_to_log", False) else type(error).__name__
            _LOG.warning("release waits, tried again within a minute", item=row.id, reason=reason)

    def _enter(self, row: Row[Any]) -> Entry:
        at = utc(row.resolved_at)
        candidate = self._shelf.read(row, _wish(row.resolution), at)
        arrival = Arrival(
            id=row.resolution["arrival"],
            tenant=row.tenant,
            source=holding.source_of(row),
            association_id=f"{RELEASE}{row.id}",
            sop_class_uid=candidate.found.sop_class_uid,
            sop_instance_uid=candidate.found.sop_instance_uid,
            transfer_syntax_uid=candidate.transfer_syntax,
            received_at=at,
            traceparent=trace.traceparent() or "",
        )
        return self._shelf.enter(row, candidate, arrival)

    async def _locked(self, tx: AsyncSession, entry_id: str) -> None:
        found = await holding.lock(tx, entry_id)
        if found is None:
            raise _gone()
        _require_undecided(found)

    async def _finish(self, row: Row[Any]) -> None:
        now = self._clock()
        async with self._database.transaction() as tx:
            found = await holding.lock(tx, row.id)
            if found is None or found.state != "releasing":
                return
            taken = (
                await tx.execute(
                    select(studies.c.study_uid, arrivals.c.sop_uid, instances.c.content_hash)
                    .join(studies, studies.c.id == arrivals.c.study_id)
                    .outerjoin(
                        instances, (instances.c.tenant == found.tenant) & (instances.c.sop_uid == arrivals.c.sop_uid)
                    )
                    .where(arrivals.c.id == found.resolution["arrival"])
                )
            ).one()
            corrected = tuple(found.resolution["corrected"])
            event = QuarantineResolved(
                quarantine_id=found.id,
                resolution="released",
                reason=found.resolution["reason"],
                principal=found.resolved_by,
                corrected=corrected,
                study_instance_uid=taken.study_uid,
                sop_instance_uid=taken.sop_uid,
                content_hash=taken.content_hash,
            )
            await self._emit(tx, found, event, study_uid=taken.study_uid)
            resolution = {**found.resolution, "study_uid": taken.study_uid, "sop_uid": taken.sop_uid}
            await holding.set_state(
                tx, found.id, "released", at=utc(found.resolved_at), by=found.resolved_by, resolution=resolution
            )
            # What was corrected stays as it came, for those who ask later; what was not is in the study.
            if not corrected and found.object_key:
                await holding.let_go(tx, found.id, found.object_key, now)
        if not corrected and found.object_key:
            await self._remove(found.object_key)
        metric.RESOLVED.labels(outcome="released").inc()
        _LOG.info("quarantined object released", item=row.id, tenant=row.tenant, study_uid=taken.study_uid)
        await self._tell(row.id)

    async def _give_back(self, row: Row[Any], why: str) -> None:
        async with self._database.transaction() as tx:
            found = await holding.lock(tx, row.id)
            if found is None or found.state != "releasing":
                return
            resolution = {"failed": why}
            await holding.set_state(tx, row.id, found.resolution["before"], at=None, by=None, resolution=resolution)
        _LOG.error("release failed, the entry is open again", item=row.id, tenant=row.tenant, reason=why, kind="alarm")
        await self._tell(row.id)

    async def _tell(self, entry_id: str) -> None:
        self._attempts.pop(entry_id, None)
        async with self._decided:
            self._decided.notify_all()

    async def _any_releasing(self, entry_ids: list[str]) -> bool:
        async with self._database.reading() as tx:
            return any(row.id in entry_ids for row in await holding.releasing(tx))

    async def _remove(self, key: str) -> None:
        """Remove an object that was let go. What fails for now is done from its note, by retention."""
        try:
            await asyncio.to_thread(self._objects.delete, key)
            async with self._database.transaction() as tx:
                await holding.removed(tx, key)
        except _PASSING as error:
            _LOG.warning("object removed later", key=key, reason=type(error).__name__)

    async def _emit(
        self, tx: AsyncSession, row: Row[Any], event: QuarantineResolved, *, study_uid: str | None = None
    ) -> None:
        subject = study_uid or row.study_uid or row.id
        await self._outbox.emit(tx, event, subject=subject, tenant=row.tenant, site=row.site)


def _require_undecided(row: Row[Any]) -> None:
    if row.state in UNDECIDED:
        return
    what = "is on its way into a study" if row.state == "releasing" else f"was {row.state}"
    by = f" by {row.resolved_by}" if row.resolved_by else ""
    raise RefusedError("Decided already", f"This entry {what}{by}.", "Look at it: there is nothing left to decide.")


def _wish(resolution: Mapping[str, Any]) -> Wish:
    return Wish(
        corrections=resolution["corrections"],
        trust=resolution["trust"],
        replace=resolution["replace"],
        modification=resolution["modification"],
        reason=resolution["reason"],
    )


def _gone() -> RefusedError:
    return RefusedError("No such entry", "The quarantine has no such entry any more.", "List the quarantine again.")
