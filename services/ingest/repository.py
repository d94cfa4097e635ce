"""All SQL of ingest's write side. Every method that takes a session works in its caller's transaction."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cache, cached_property
from typing import Any

from sqlalchemy import BindParameter, CursorResult, Result, Row, Table, bindparam, delete, func, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.fact import ObjectRef
from contracts.instances import StoredInstance
from services.ingest.arrival import Arrival, Entry, source_document
from services.ingest.evidence import Patience
from services.ingest.models import arrivals, batches, instances, procedures, received, series, studies
from services.ingest.sorting import Kept, Known
from services.ingest.tally import Brought, Tally, largest, of_batch

#: What is needed of a study's row to bring it up to date.
_AGGREGATES = (
    *(studies.c.id, studies.c.study_uid, studies.c.first_arrival, studies.c.first_arrival_id, studies.c.last_arrival),
    *(studies.c.source, studies.c.sites, studies.c.instance_count, studies.c.series_count, studies.c.revision),
    *(studies.c.size, studies.c.modalities, studies.c.announced, studies.c.pending_since, studies.c.due_at),
    *(studies.c.version, studies.c.expired_at),
)
# Made once: to make a statement takes longer than to run it.
_UIDS: BindParameter[Any] = bindparam("uids", expanding=True)
_IDS: BindParameter[Any] = bindparam("ids", expanding=True)
_KNOWN = select(instances.c.sop_uid, instances.c.content_hash, instances.c.object_key).where(
    instances.c.tenant == bindparam("owner"), instances.c.sop_uid.in_(_UIDS)
)
#: Instances that modalities say they made of a study, by the steps that they have ended.
_PERFORMED = (
    select(func.sum(procedures.c.instance_count))
    .where(procedures.c.tenant == studies.c.tenant, procedures.c.study_uid == studies.c.study_uid)
    .where(procedures.c.state != "in-progress")
    .scalar_subquery()
    .label("performed")
)
_LOCK_STUDIES = (
    select(*_AGGREGATES, _PERFORMED)
    .where(studies.c.tenant == bindparam("owner"), studies.c.study_uid.in_(_UIDS))
    .order_by(studies.c.study_uid)
    .with_for_update()
)
_SERIES = select(series).where(series.c.study_id.in_(_IDS), series.c.series_uid.in_(_UIDS))
_FORGET_RECEIVED = delete(received).where(received.c.id.in_(_IDS))
_INSERT_BATCHES, _INSERT_INSTANCES = batches.insert(), instances.insert()
_UPDATE_STUDY = update(studies).where(studies.c.id == bindparam("row"))
#: The clocks of replicas may differ by so much.
CLOCKS_DIFFER = timedelta(minutes=1)


class RacedError(Exception):
    """Another replica stored one of the instances first: look again what is known, and repeat."""


@dataclass(frozen=True)
class Indexed:
    """A batch that is ready for its transaction.

    Attributes
    ----------
    id
        Name of the batch.
    new
        The instances whose UID is not known yet, with all their base attributes.
    arrivals
        All arrivals of the batch by outcome, `stored` or `duplicate`.
    headers
        The header document of the new ones; none if there are none.
    """

    id: str
    tenant: str
    study_uid: str
    new: tuple[StoredInstance, ...]
    arrivals: Mapping[str, Sequence[Entry]]
    headers: ObjectRef | None

    @property
    def study(self) -> tuple[str, str]:
        """Tenant and Study Instance UID."""
        return self.tenant, self.study_uid

    @cached_property
    def entries(self) -> list[Entry]:
        """All of its arrivals."""
        return [entry for entries in self.arrivals.values() for entry in entries]

    @cached_property
    def first(self) -> Arrival:
        """The first of its arrivals; all are of one association."""
        return min((entry.arrival for entry in self.entries), key=lambda arrival: arrival.id)


def utc(value: datetime) -> datetime:
    """Give a time as it was written: SQLite does not keep the offset."""
    return value if value.tzinfo is not None else value.replace(tzinfo=UTC)


async def known(tx: AsyncSession, wanted: Iterable[tuple[str, str]]) -> Known:
    """Look up which instances are kept already, by tenant and SOP Instance UID."""
    by_tenant: dict[str, set[str]] = {}
    for tenant, sop_uid in wanted:
        by_tenant.setdefault(tenant, set()).add(sop_uid)
    found: Known = {}
    for tenant, sop_uids in by_tenant.items():
        rows = await tx.execute(_KNOWN, {"owner": tenant, "uids": sorted(sop_uids)})
        found |= {(tenant, uid): Kept(content_hash, key) for uid, content_hash, key in rows}
    return found


async def first_nodes(tx: AsyncSession, wanted: Collection[tuple[str, str]]) -> dict[tuple[str, str], str]:
    """Name the node that each of some studies came from first, by tenant and Study Instance UID."""
    found = {}
    for tenant, study_uid in sorted(wanted):
        mine = (studies.c.tenant == tenant, studies.c.study_uid == study_uid)
        source: Any = await tx.scalar(select(studies.c.source).where(*mine))
        found[tenant, study_uid] = str(source["node"])
    return found


async def index(
    tx: AsyncSession, indexed: Sequence[Indexed], *, now: datetime, patience: Patience
) -> dict[tuple[str, str], int]:
    """Write batches into the tables; give the last version of each of their studies.

    Raises RacedError if one of their new instances is not new any more, or what a duplicate is one of has expired.

    The studies first, then the instances, each in a fixed order: two replicas with the same ones wait for each other
    and never in a circle.
    """
    rows = await _lock_studies(tx, indexed)
    study_ids = {key: int(row.id) for key, row in rows.items()}
    await _require_kept(tx, indexed)
    await _insert_instances(tx, indexed, study_ids)
    # An arrival is there already when it was indexed just before a crash, and is repaired from the spool.
    came = [
        {
            "id": entry.arrival.id,
            "study_id": study_ids[batch.study],
            "sop_uid": entry.arrival.sop_instance_uid,
            "outcome": outcome,
            "association_id": entry.arrival.association_id,
            "source": source,
            "received_at": entry.arrival.received_at,
        }
        for batch in indexed
        for outcome, entries in batch.arrivals.items()
        for source in [source_document(batch.first.source)]
        for entry in entries
    ]
    await tx.execute(_insert_absent(_dialect(tx), arrivals), came)
    recorded: Result[Any] = await tx.execute(_FORGET_RECEIVED, {"ids": [row["id"] for row in came]})
    uploaded = sum(entry.uploaded for batch in indexed for entry in batch.entries)
    if isinstance(recorded, CursorResult) and recorded.rowcount < uploaded:
        # Another replica has taken the records over, and perhaps removed the objects.
        raise RacedError
    brought: dict[tuple[str, str], Brought] = {}
    for key in rows:
        new = [each for batch in indexed if batch.study == key for each in batch.new]
        if new:
            brought[key] = of_batch(new)
    headed = [
        {
            "id": batch.id,
            "study_id": study_ids[batch.study],
            "headers_key": batch.headers.key,
            "headers_hash": batch.headers.sha256,
            "headers_size": batch.headers.size,
            "indexed_at": now,
        }
        for batch in indexed
        if batch.headers is not None
    ]
    if headed:
        await tx.execute(_INSERT_BATCHES, headed)
    added = await _count_series(tx, {study_ids[key]: each for key, each in brought.items()})
    changes = [
        _due(
            _aggregate(row, [batch for batch in indexed if batch.study == key], brought.get(key), added),
            now,
            patience,
            row.performed,
        )
        for key, row in rows.items()
    ]
    await tx.execute(_UPDATE_STUDY, changes)
    return {key: int(row.version) for key, row in rows.items()}


async def _lock_studies(tx: AsyncSession, indexed: Sequence[Indexed]) -> dict[tuple[str, str], Row[Any]]:
    """Make the rows of the batches' studies where there are none, and lock them."""
    first: dict[tuple[str, str], Arrival] = {}
    for batch in indexed:
        first[batch.study] = min(first.get(batch.study, batch.first), batch.first, key=lambda each: each.id)
    order = sorted(first)
    new = [
        {
            "tenant": tenant,
            "study_uid": study_uid,
            "first_arrival": first[tenant, study_uid].received_at,
            "first_arrival_id": first[tenant, study_uid].id,
            "last_arrival": first[tenant, study_uid].received_at,
            "source": source_document(first[tenant, study_uid].source),
            "sites": [],
        }
        for tenant, study_uid in order
    ]
    await tx.execute(_insert_absent(_dialect(tx), studies), new)
    found: dict[tuple[str, str], Row[Any]] = {}
    for tenant in sorted({tenant for tenant, _ in order}):
        wanted = [study_uid for each, study_uid in order if each == tenant]
        rows: Result[Any] = await tx.execute(_LOCK_STUDIES, {"owner": tenant, "uids": wanted})
        found |= {(tenant, row.study_uid): row for row in rows}
    if len(found) < len(order):
        raise RacedError
    return found


async def _require_kept(tx: AsyncSession, indexed: Sequence[Indexed]) -> None:
    """Look once more, the studies being locked: a duplicate of nothing would be thrown away."""
    wanted = {
        (batch.tenant, entry.arrival.sop_instance_uid)
        for batch in indexed
        for entry in batch.arrivals.get("duplicate", ())
    }
    # One that is new in the same transaction is a duplicate's first, and is not there yet.
    wanted -= {(batch.tenant, each.sop_instance_uid) for batch in indexed for each in batch.new}
    if len(await known(tx, wanted)) < len(wanted):
        raise RacedError


async def _insert_instances(
    tx: AsyncSession, indexed: Sequence[Indexed], study_ids: Mapping[tuple[str, str], int]
) -> None:
    rows = [_instance_row(study_ids[batch.study], batch, each) for batch in indexed for each in batch.new]
    if not rows:
        return
    try:
        await tx.execute(_INSERT_INSTANCES, sorted(rows, key=lambda row: (row["tenant"], row["sop_uid"])))
    except IntegrityError as error:
        raise RacedError from error


async def _count_series(tx: AsyncSession, brought: Mapping[int, Brought]) -> dict[int, int]:
    """Add what batches bring to the rows of their series; give how many series are new to each study."""
    wanted = {uid for each in brought.values() for uid in each.series}
    if not wanted:
        return {}
    rows = await tx.execute(_SERIES, {"ids": list(brought), "uids": sorted(wanted)})
    kept = {(row.study_id, row.series_uid): tally_of(row) for row in rows}
    written = [
        {
            "study_id": study_id,
            "series_uid": uid,
            "modality": whole.modality,
            "instance_count": whole.count,
            "size": whole.size,
            "numbers": whole.numbers,
            "announced": whole.announced,
        }
        for study_id, each in brought.items()
        for uid, part in each.series.items()
        for whole in [kept.get((study_id, uid), Tally()) + part]
    ]
    await tx.execute(_write_series(_dialect(tx)), written)
    return {study_id: sum((study_id, uid) not in kept for uid in each.series) for study_id, each in brought.items()}


def tally_of(row: Row[Any]) -> Tally:
    """Read a row of the table `series`."""
    numbers = None if row.numbers is None else tuple((low, high) for low, high in row.numbers)
    return Tally(row.modality, row.instance_count, row.size, numbers, row.announced)


def _aggregate(
    row: Row[Any], indexed: Sequence[Indexed], brought: Brought | None, added: Mapping[int, int]
) -> dict[str, Any]:
    """Give a study's row anew; it is locked, and every aggregate is independent of the order."""
    came = [entry.arrival for batch in indexed for entry in batch.entries]
    first = min(came, key=lambda arrival: arrival.id)
    new = [each.received_at for batch in indexed for each in batch.new]
    changes: dict[str, Any] = {
        "row": row.id,
        "first_arrival": utc(row.first_arrival),
        "first_arrival_id": row.first_arrival_id,
        "source": row.source,
        "last_arrival": max(utc(row.last_arrival), *(arrival.received_at for arrival in came)),
        "sites": sorted({*row.sites, *(arrival.source.site for arrival in came)}),
        "instance_count": row.instance_count + len(new),
        "series_count": row.series_count + added.get(row.id, 0),
        "revision": row.revision + (1 if new else 0),
        "size": row.size + (brought.size if brought else 0),
        "modalities": brought.modalities(row.modalities or ()) if brought else row.modalities,
        "announced": largest(row.announced, brought.announced if brought else None),
        "pending_since": None if row.pending_since is None else utc(row.pending_since),
        "expired_at": None if new or row.expired_at is None else utc(row.expired_at),
    }
    if first.id < row.first_arrival_id:
        changes |= {
            "first_arrival": first.received_at,
            "first_arrival_id": first.id,
            "source": source_document(first.source),
        }
    if new and changes["pending_since"] is None:
        changes["pending_since"] = min(new)
    return changes


def _due(changes: dict[str, Any], now: datetime, patience: Patience, performed: int | None) -> dict[str, Any]:
    """Say when a study is looked at; one that has all its instances in a version never is."""
    wait = patience.first_look(
        changes["modalities"] or (),
        count=changes["instance_count"],
        announced=changes["announced"],
        performed=performed,
    )
    return changes | {"due_at": None if changes["pending_since"] is None else now + wait}


def _instance_row(study_id: int, batch: Indexed, each: StoredInstance) -> dict[str, Any]:
    return {
        "study_id": study_id,
        "tenant": batch.tenant,
        "sop_uid": each.sop_instance_uid,
        "sop_class_uid": each.sop_class_uid,
        "series_uid": each.series_instance_uid,
        "transfer_syntax_uid": each.transfer_syntax_uid,
        "content_hash": each.content_hash,
        "object_key": each.object_key,
        "size": each.size,
        "received_at": each.received_at,
        "batch_id": batch.id,
        "attributes": each.attributes,
    }


def _dialect(tx: AsyncSession) -> Any:
    return postgresql if tx.get_bind().dialect.name == "postgresql" else sqlite


@cache
def _insert_absent(dialect: Any, table: Table) -> Any:
    """Insert what is not there yet."""
    return dialect.insert(table).on_conflict_do_nothing()


@cache
def _write_series(dialect: Any) -> Any:
    """Write series anew, whether they are there or not."""
    insert = dialect.insert(series)
    changed = {name: insert.excluded[name] for name in ("modality", "instance_count", "size", "numbers", "announced")}
    return insert.on_conflict_do_update(index_elements=["study_id", "series_uid"], set_=changed)
