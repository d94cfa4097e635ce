"""All SQL of the quarantine's write side. Every function works in its caller's transaction.

An entry is `open` until a person decides, or `kept-first` where the network definition did. `releasing` means that it
is on its way into a study and may be so again after a crash; `released` that the index has it; `discarded` that it
never will be in a study. Its bytes stay where they are until someone has them deleted: then it has no object key.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import Row, Table, delete, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.fact import Source
from contracts.instances import ConflictPolicy
from services.ingest.arrival import Entry, source_document
from services.ingest.identity import Objection
from services.ingest.models import arrivals, conflicts, garbage, instances, quarantine, received, replaced, studies

State = Literal["open", "kept-first", "releasing", "released", "discarded"]
#: States in which a person may decide.
UNDECIDED: tuple[State, ...] = ("open", "kept-first")
#: States in which nobody will do anything any more.
_DECIDED: tuple[State, ...] = ("released", "discarded")


async def count_again(tx: AsyncSession, entry: Entry, objection: Objection) -> str | None:
    """Count a repeated arrival of bytes that are in the quarantine; give the entry's id, None if they are not there.

    Bytes that were deleted since, or went into a study, are not there: they have to be kept once more.
    """
    found = await tx.execute(
        update(quarantine)
        .where(
            *_same(entry, objection),
            quarantine.c.id != entry.arrival.id,
            or_(quarantine.c.state.not_in(_DECIDED), quarantine.c.object_key != ""),
        )
        .values(times=quarantine.c.times + 1, last_received_at=entry.arrival.received_at)
        .returning(quarantine.c.id)
    )
    await tx.execute(delete(received).where(received.c.id == entry.arrival.id))
    row = found.first()
    return None if row is None else str(row.id)


async def put_aside(
    tx: AsyncSession, entry: Entry, objection: Objection, uids: tuple[str | None, str | None], state: State
) -> bool:
    """Record an object, by Study and SOP Instance UID as far as they are known. False if it is recorded already."""
    arrival = entry.arrival
    row = {
        "id": arrival.id,
        "tenant": arrival.tenant,
        "site": arrival.source.site,
        "reason": objection.reason,
        "detail": objection.detail,
        "study_uid": uids[0],
        "sop_uid": uids[1],
        "source": source_document(arrival.source),
        "transfer_syntax_uid": arrival.transfer_syntax_uid[:64],
        "object_key": entry.quarantine_key,
        "content_hash": entry.content_hash,
        "size": entry.size,
        "received_at": arrival.received_at,
        "last_received_at": arrival.received_at,
        "state": state,
    }
    # The same bytes were discarded and deleted, or released as they were: people are asked anew.
    await tx.execute(
        delete(quarantine).where(
            *_same(entry, objection), quarantine.c.state.in_(_DECIDED), quarantine.c.object_key == ""
        )
    )
    added = await tx.scalars(_insert_absent(tx, quarantine).values(row).returning(quarantine.c.id))
    return added.first() is not None


async def has(tx: AsyncSession, arrival_id: str) -> bool:
    """Tell whether an arrival has a row of its own in the quarantine."""
    return await tx.scalar(select(quarantine.c.id).where(quarantine.c.id == arrival_id)) is not None


async def is_indexed(tx: AsyncSession, arrival_id: str) -> bool:
    """Tell whether an arrival is in the index, as what it brought or as something that was there already."""
    return await tx.scalar(select(arrivals.c.id).where(arrivals.c.id == arrival_id)) is not None


async def lock(tx: AsyncSession, entry_id: str) -> Row[Any] | None:
    """Give an entry, and keep others from deciding on it until the transaction ends."""
    return (await tx.execute(select(quarantine).where(quarantine.c.id == entry_id).with_for_update())).first()


async def set_state(
    tx: AsyncSession, entry_id: str, state: State, *, at: datetime | None, by: str | None, resolution: Any
) -> None:
    """Write down a decision, or take it back."""
    await tx.execute(
        update(quarantine)
        .where(quarantine.c.id == entry_id)
        .values(state=state, resolved_at=at, resolved_by=by, resolution=resolution)
    )


async def let_go(tx: AsyncSession, entry_id: str, key: str, at: datetime) -> None:
    """Give an entry's bytes up; the object is removed after the transaction."""
    await tx.execute(_insert_absent(tx, garbage).values(object_key=key, noted_at=at))
    await tx.execute(update(quarantine).where(quarantine.c.id == entry_id).values(object_key=""))


async def removed(tx: AsyncSession, key: str) -> None:
    """An object that was given up is gone."""
    await tx.execute(delete(garbage).where(garbage.c.object_key == key))


async def releasing(tx: AsyncSession) -> list[Row[Any]]:
    """List the entries that are on their way into a study."""
    found = await tx.execute(select(quarantine).where(quarantine.c.state == "releasing").order_by(quarantine.c.id))
    return list(found)


async def kept(tx: AsyncSession, tenant: str, sop_uid: str) -> Row[Any] | None:
    """Give what is kept under a SOP Instance UID, with its study."""
    found = await tx.execute(
        select(instances, studies.c.study_uid)
        .join(studies, studies.c.id == instances.c.study_id)
        .where(instances.c.tenant == tenant, instances.c.sop_uid == sop_uid)
    )
    return found.first()


async def sites_of(tx: AsyncSession, tenant: str, study_uid: str) -> list[str] | None:
    """Give the sites that sent a study of a tenant; None if it has no such study."""
    mine = (studies.c.tenant == tenant, studies.c.study_uid == study_uid)
    found = (await tx.execute(select(studies.c.sites).where(*mine))).first()
    return None if found is None else list(found.sites)


async def note_conflict(tx: AsyncSession, entry: Entry, old: Row[Any], policy: ConflictPolicy) -> bool:
    """Record other content under a known UID. False if this arrival of it is recorded already."""
    row = {
        "id": entry.arrival.id,
        "study_id": old.study_id,
        "sop_uid": entry.arrival.sop_instance_uid,
        "policy": policy,
        "kept_hash": old.content_hash,
        "other_hash": entry.content_hash,
        "source": source_document(entry.arrival.source),
        "received_at": entry.arrival.received_at,
    }
    added = await tx.scalars(_insert_absent(tx, conflicts).values(row).returning(conflicts.c.id))
    return added.first() is not None


async def keep_replaced(tx: AsyncSession, study_id: int, content: Mapping[str, Any], at: datetime) -> None:
    """Keep a content that another one took the place of: sop_uid, content_hash, object_key, size, received_at."""
    await tx.execute(replaced.insert().values(study_id=study_id, replaced_at=at, **content))


async def note_arrival(tx: AsyncSession, entry: Entry, study_id: int, outcome: str) -> None:
    """Record an arrival and what became of it."""
    row = {
        "id": entry.arrival.id,
        "study_id": study_id,
        "sop_uid": entry.arrival.sop_instance_uid,
        "outcome": outcome,
        "association_id": entry.arrival.association_id,
        "source": source_document(entry.arrival.source),
        "received_at": entry.arrival.received_at,
    }
    await tx.execute(_insert_absent(tx, arrivals).values(row))
    await tx.execute(delete(received).where(received.c.id == entry.arrival.id))


def source_of(row: Row[Any]) -> Source:
    """Give the source of an entry."""
    return Source.model_validate(row.source)


def _same(entry: Entry, objection: Objection) -> tuple[Any, ...]:
    return (
        quarantine.c.tenant == entry.arrival.tenant,
        quarantine.c.content_hash == entry.content_hash,
        quarantine.c.reason == objection.reason,
    )


def _insert_absent(tx: AsyncSession, table: Table) -> Any:
    dialect = postgresql if tx.get_bind().dialect.name == "postgresql" else sqlite
    return dialect.insert(table).on_conflict_do_nothing()
