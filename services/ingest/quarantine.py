"""What people do with quarantined objects: release them into a study, corrected or as they are, or discard them.

A release is three steps, each of which may be done again after a crash. (1) A transaction says that the entry is
`releasing`, with all that was decided. (2) The dataset, rewritten where it was corrected, becomes an entry of the spool
under a name that step 1 gave it, and goes through the same checks and indexing as an arrival. (3) Once the index has
that name, a transaction makes the entry `released` and tells it. What is between 1 and 3 is taken up by `run`: the
bytes stay in the quarantine until 3, so that nothing is lost with the spool.
"""

import asyncio
import hashlib
import io
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from datetime import datetime
from typing import Any, BinaryIO, Final, cast

from pydicom.datadict import keyword_for_tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian
from sqlalchemy import Row, select
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.instances import QuarantineResolved
from libs.clock import Clock
from libs.dicom import header, part10, rewrite, uid
from libs.dicom.header import Header, UnreadableDatasetError
from libs.dicom.rewrite import Note, NotRewritableError, Rewriting
from libs.messaging.outbox import Outbox
from libs.storage.database import Database
from libs.storage.objects import ObjectMissingError, ObjectStore, StoreFullError, StoreUnavailableError
from libs.telemetry import log, trace
from services.ingest import holding, identity, metric
from services.ingest.arrival import Arrival, DamagedEntryError, Entry, arrival_id, from_meta
from services.ingest.completion import SILENT_AFTER
from services.ingest.contest import RELEASE
from services.ingest.correction import CorrectionError, Modification, Trust, checked
from services.ingest.disk import SpoolFullError, SpoolUnavailableError
from services.ingest.holding import UNDECIDED
from services.ingest.models import arrivals, instances, studies
from services.ingest.repository import utc
from services.ingest.spool import Spool, read_entry
from services.ingest.work import Work

_LOG = log.get(__name__)
#: What is expected to mend itself.
_PASSING = (SQLAlchemyError, StoreUnavailableError, StoreFullError, SpoolFullError, SpoolUnavailableError, OSError)
_ROUND_EVERY: Final = 60.0
_IN_MEMORY: Final = 1 << 20
#: What stands before a dataset of ours is shorter.
_HEAD: Final = 1 << 16
_MODIFYING_SYSTEM: Final = "KIVUKO"
#: A release that ends nowhere so often is given back to people.
_MOST_ATTEMPTS: Final = 3


class RefusedError(Exception):
    """It can't be done. The text says why, and what to do, without values.

    Parameters
    ----------
    title
        What kind of refusal, the same words each time.
    detail, advice
        What happened, and what to do next.
    """

    safe_to_log = True

    def __init__(self, title: str, detail: str, advice: str) -> None:
        super().__init__(detail)
        self.title = title
        self.detail = detail
        self.advice = advice


@dataclass(frozen=True)
class Wish:
    """What a person asks for.

    Attributes
    ----------
    corrections
        New values by DICOM keyword.
    trust
        Whose word counts where command and dataset name different instances; None if nothing was said.
    replace
        Whether to take the place of what is kept under the same SOP Instance UID.
    modification
        What the Original Attributes Sequence says of it.
    reason
        Why, in the person's words.
    """

    corrections: Mapping[str, str] = field(default_factory=dict)
    trust: Trust | None = None
    replace: bool = False
    modification: Modification = "CORRECT"
    reason: str = ""


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


@dataclass(frozen=True)
class _Reading:
    """A quarantined dataset as it will be."""

    found: Header
    rewriting: Rewriting
    transfer_syntax: str

    @property
    def corrected(self) -> tuple[str, ...]:
        return tuple(keyword_for_tag(tag) for tag in self.rewriting.changed)


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
        self._spool = spool
        self._work = work
        self._outbox = outbox
        self._submit = submit
        self._replica = replica
        self._clock = clock
        self._noise = noise
        self._wake = asyncio.Event()
        self._decided = asyncio.Condition()
        self._entering: set[str] = set()
        self._attempts: dict[str, int] = {}

    def changed(self) -> None:
        """Look again: something was indexed. From the event loop only."""
        self._wake.set()

    async def look(self, row: Row[Any], wish: Wish) -> Prospect:
        """Say what a release would come to, and change nothing. Raises RefusedError, and what the object store does."""
        _require_undecided(row)
        reading = await asyncio.to_thread(self._read, row, wish, self._clock())
        found = reading.found
        async with self._database.reading() as tx:
            kept = await holding.kept(tx, row.tenant, found.sop_instance_uid)
            new = not await holding.study_known(tx, row.tenant, found.study_instance_uid)
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
        return Prospect(
            study_uid=found.study_instance_uid,
            series_uid=found.series_instance_uid,
            sop_class_uid=found.sop_class_uid,
            sop_uid=found.sop_instance_uid,
            corrected=reading.corrected,
            new_study=new,
            replaces=replaces,
        )

    async def release(self, row: Row[Any], wish: Wish, by: str) -> Prospect:
        """Release an entry; it is `releasing` from here on, whatever happens. Raises as `look`."""
        prospect = await self.look(row, wish)
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
        self._wake.set()
        return prospect

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
        what = "its bytes deleted" if delete else "its bytes kept"
        _LOG.info("quarantined object discarded", item=row.id, tenant=row.tenant, reason=what)
        if delete:
            await self._remove(found.object_key)

    async def header(self, row: Row[Any]) -> dict[str, Any]:
        """Give an entry's whole header after the DICOM JSON Model, values of the patient included.

        Raises RefusedError if the bytes are no dataset, or are not there.
        """
        return await asyncio.to_thread(self._header, row)

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
            elif mine and row.resolution["arrival"] not in in_hand and row.id not in self._entering:
                await self._try_to_enter(row)

    async def _try_to_enter(self, row: Row[Any]) -> None:
        """Put a claimed entry into the spool; what fails for now is tried again, what fails for good is given back."""
        self._attempts[row.id] = self._attempts.get(row.id, 0) + 1
        if self._attempts[row.id] > _MOST_ATTEMPTS:
            await self._give_back(row, "it did not reach the index: the same bytes are in the quarantine already")
            return
        self._entering.add(row.id)
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
        finally:
            self._entering.discard(row.id)

    def _enter(self, row: Row[Any]) -> Entry:
        wish = _wish(row.resolution)
        at = utc(row.resolved_at)
        reading = self._read(row, wish, at)
        arrival = Arrival(
            id=row.resolution["arrival"],
            tenant=row.tenant,
            source=holding.source_of(row),
            association_id=f"{RELEASE}{row.id}",
            sop_class_uid=reading.found.sop_class_uid,
            sop_instance_uid=reading.found.sop_instance_uid,
            transfer_syntax_uid=reading.transfer_syntax,
            received_at=at,
            traceparent=trace.traceparent() or "",
        )
        _, offset = self._arrival(row)
        with self._open(row, offset) as file:
            checking = _Hashing(file)
            pieces = rewrite.stream(checking, reading.transfer_syntax, reading.rewriting.edits)
            try:
                path = self._spool.bring(arrival.id, _Pieces(part10.encode(arrival.meta()), pieces))
            except UnreadableDatasetError as error:
                raise _damaged() from error
            checking.drain()
        if checking.hexdigest() != row.content_hash:
            self._spool.discard(path)
            raise _damaged()
        try:
            return read_entry(path)
        except (part10.NotPart10Error, DamagedEntryError) as error:
            self._spool.discard(path)
            raise _damaged() from error

    def _read(self, row: Row[Any], wish: Wish, at: datetime) -> _Reading:
        """Read a dataset as it will be. Raises RefusedError if it can't be taken into any study."""
        arrival, offset = self._arrival(row)
        syntax = arrival.transfer_syntax_uid
        try:
            with self._open(row, offset) as file:
                found = header.read(file, syntax)
            values = checked({**_by_trust(row, arrival, found, wish), **wish.corrections})
            with self._open(row, offset) as file:
                note = Note(at, _MODIFYING_SYSTEM, row.source["node"][:64], wish.modification)
                rewriting = rewrite.plan(file, syntax, values, note)
            if rewriting.edits:
                with self._open(row, offset) as file:
                    found = _as_rewritten(file, syntax, rewriting)
                _require_effect(found, values)
        except UnreadableDatasetError as error:
            raise _unreadable(error) from error
        except CorrectionError as error:
            raise RefusedError("Not a correction", f"{error}.", "Give another value.") from error
        except NotRewritableError as error:
            advice = "Correct it at the sender, and have it sent again."
            raise RefusedError("Not correctable", f"{error}.", advice) from error
        _require_identity(found)
        return _Reading(found, rewriting, syntax)

    def _header(self, row: Row[Any]) -> dict[str, Any]:
        arrival, offset = self._arrival(row)
        try:
            with self._open(row, offset) as file:
                return header.read_whole(file, arrival.transfer_syntax_uid)[1]
        except UnreadableDatasetError as error:
            raise _unreadable(error) from error

    def _arrival(self, row: Row[Any]) -> tuple[Arrival, int]:
        """Give what the object says of itself, and where its dataset begins."""
        with self._open(row, 0, _HEAD) as file:
            begin = io.BytesIO(file.read())
        try:
            meta, offset = part10.decode(begin)
            return from_meta(meta), offset
        except (part10.NotPart10Error, DamagedEntryError) as error:
            raise _damaged() from error

    def _open(self, row: Row[Any], offset: int, length: int | None = None) -> BinaryIO:
        if not row.object_key:
            advice = "Have the sender send it again."
            advice = "Have the sender send it again."
            raise RefusedError("Bytes are gone", "The bytes of this entry were deleted.", advice)
        try:
            return self._objects.open(row.object_key, offset, length)
        except ObjectMissingError as error:
            raise _damaged() from error

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
        await asyncio.to_thread(self._objects.delete, key)
        async with self._database.transaction() as tx:
            await holding.removed(tx, key)

    async def _emit(
        self, tx: AsyncSession, row: Row[Any], event: QuarantineResolved, *, study_uid: str | None = None
    ) -> None:
        subject = study_uid or row.study_uid or row.id
        await self._outbox.emit(tx, event, subject=subject, tenant=row.tenant, site=row.site)


class _Hashing(io.RawIOBase, BinaryIO):
    """Hashes what is read of a file."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        data = self._source.read(-1 if size is None else size)
        self._digest.update(data)
        return data

    def drain(self) -> None:
        while self.read(_IN_MEMORY):
            pass

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


class _Pieces(io.RawIOBase, BinaryIO):
    """A file made of pieces that are not all there at once."""

    def __init__(self, first: bytes, pieces: Iterator[bytes]) -> None:
        self._left = first
        self._pieces = pieces

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._left = piece
        most = len(self._left) if size is None or size < 0 else size
        data, self._left = self._left[:most], self._left[most:]
        return data


def _as_rewritten(file: BinaryIO, syntax: str, rewriting: Rewriting) -> Header:
    """Read the header as it will be; on disk, if it is long."""
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as head:
        for piece in rewrite.head(file, syntax, rewriting):
            head.write(piece)
        head.seek(0)
        inflated = ExplicitVRLittleEndian if syntax == DeflatedExplicitVRLittleEndian else syntax
        return header.read(cast("BinaryIO", head), str(inflated))


def _by_trust(row: Row[Any], arrival: Arrival, found: Header, wish: Wish) -> dict[str, str]:
    """Say what has to be corrected where command and dataset name different instances, as the person decided."""
    said = {"SOPClassUID": arrival.sop_class_uid, "SOPInstanceUID": arrival.sop_instance_uid}
    stands = {"SOPClassUID": found.sop_class_uid, "SOPInstanceUID": found.sop_instance_uid}
    differing = {name: value for name, value in said.items() if value != stands[name] and name not in wish.corrections}
    if not differing or row.reason != "identity-mismatch" or wish.trust == "dataset":
        return {}
    if wish.trust is None and all(uid.is_valid(value) for value in (*said.values(), *stands.values())):
        raise RefusedError(
            "Command and dataset differ",
            f"The command and the dataset name another {' and '.join(differing)}.",
            "Say which is right: trust `dataset` to release it as it is, `command` to write the command's into it.",
        )
    if wish.trust is None:
        # Only one of them can be right, and a missing identifier is not guessed.
        return {}
    return differing


def _require_effect(found: Header, values: Mapping[int, str]) -> None:
    """Make sure that whoever reads the dataset gets what was asked for, however odd it is otherwise."""
    for tag, value in values.items():
        keyword = keyword_for_tag(tag)
        if found.attributes.get(keyword, "") not in (value, value.rstrip("^ ")):
            raise NotRewritableError(f"the dataset is so odd that {keyword} would not be read as it was written")


def _require_identity(found: Header) -> None:
    objection = identity.check(found.sop_class_uid, found.sop_instance_uid, found)
    if objection is not None:
        detail = objection.detail.replace("the command's SOP Class or Instance UID", "the SOP Class or Instance UID")
        raise RefusedError("Not complete", f"It can't be taken into a study: {detail}.", "Correct that too.")


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


def _unreadable(error: UnreadableDatasetError) -> RefusedError:
    advice = "Have the sender send it again, then discard this entry."
    return RefusedError("Unreadable dataset", f"The bytes are no dataset that can be read: {error}.", advice)


def _damaged() -> RefusedError:
    return RefusedError(
        "Bytes are damaged",
        "The bytes of this entry are missing in the object store, or are not what arrived.",
        "Restore the object store from a backup, or have the sender send it again.",
    )


def _gone() -> RefusedError:
    return RefusedError("No such entry", "The quarantine has no such entry any more.", "List the quarantine again.")
