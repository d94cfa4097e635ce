"""All SQL of performed procedure steps. Every function works in its caller's transaction."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any

from sqlalchemy import ColumnElement, Row, Select, and_, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from services.worklist import step
from services.worklist.link import Candidate, Link, Performed, Reference
from services.worklist.models import (
    items,
    mpps,
    mpps_forwards,
    mpps_items,
    mpps_messages,
    order_numbers,
    orders,
    patients,
)
from services.worklist.patient_rows import families, numbers_of
from services.worklist.repository import set_performed
from services.worklist.step import State

_O = orders.c
_ISSUER = mpps.c.attributes[("IssuerOfPatientID", 0)].as_string().label("issuer")


async def find(tx: AsyncSession, tenant: str, sop_instance_uid: str, *, lock: bool = False) -> Row[Any] | None:
    """Find a step by its SOP Instance UID."""
    query = select(mpps).where(mpps.c.tenant == tenant, mpps.c.sop_instance_uid == sop_instance_uid)
    return (await tx.execute(query.with_for_update() if lock else query)).one_or_none()


async def insert(tx: AsyncSession, values: Mapping[str, Any]) -> int:
    """Make a step; give its row."""
    return int((await tx.execute(mpps.insert().values(**values).returning(mpps.c.id))).scalar_one())


async def change(tx: AsyncSession, mpps_id: int, values: Mapping[str, Any]) -> None:
    """Write what has become of a step."""
    await tx.execute(update(mpps).where(mpps.c.id == mpps_id).values(**values))


async def note_repeated(tx: AsyncSession, mpps_id: int) -> None:
    """Count a request that said again what was known."""
    await tx.execute(update(mpps).where(mpps.c.id == mpps_id).values(repeated=mpps.c.repeated + 1))


async def keep_message(
    tx: AsyncSession, mpps_id: int, calling_aet: str, at: datetime, transfer_syntax: str, dataset: bytes
) -> int:
    """Keep a request as it came; give its number."""
    last = (
        await tx.execute(select(func.max(mpps_messages.c.number)).where(mpps_messages.c.mpps_id == mpps_id))
    ).scalar_one()
    number = 0 if last is None else int(last) + 1
    await tx.execute(
        mpps_messages.insert().values(
            mpps_id=mpps_id,
            number=number,
            calling_aet=calling_aet,
            received_at=at,
            transfer_syntax_uid=transfer_syntax,
            dataset=dataset,
        )
    )
    return number


async def message(tx: AsyncSession, mpps_id: int, number: int) -> Row[Any] | None:
    """Give a request as it came."""
    query = select(mpps_messages).where(mpps_messages.c.mpps_id == mpps_id, mpps_messages.c.number == number)
    return (await tx.execute(query)).one_or_none()


async def candidates(tx: AsyncSession, tenant: str, references: Collection[Reference]) -> list[Candidate]:
    """Give the items that these may be: of a study that they name, or with their accession number.

    Where that is of an order which turned out to be a part of another one, the items are this one's.
    """
    studies = {uid for each in references for uid in (each.study_instance_uid, *each.referenced)}
    accessions = {each.accession for each in references if each.accession}
    named = await _orders(tx, tenant, or_(_O.study_instance_uid.in_(studies), _O.accession.in_(accessions)))
    former = await _wholes(tx, tenant, [row for row in named if row.joined_into is not None])
    ids = {row.id for row in named if row.joined_into is None} | former.keys()
    rows = await tx.execute(
        select(
            *(items.c.id, items.c.step_id, items.c.attributes, items.c.modality, items.c.state, items.c.order_id),
            *(_O.study_instance_uid, _O.accession, _O.patient_id, _O.site),
        )
        .join(orders, _O.id == items.c.order_id)
        .where(items.c.order_id.in_(ids))
        .order_by(items.c.id)
    )
    those = list(rows)
    numbers = await numbers_of(tx, {row.patient_id for row in those})
    return [_candidate(row, numbers[row.patient_id], former.get(row.order_id, set())) for row in those]


async def _orders(tx: AsyncSession, tenant: str, condition: ColumnElement[bool]) -> Sequence[Row[Any]]:
    columns = (_O.id, _O.joined_into, _O.floating, _O.study_instance_uid, _O.accession)
    rows: Sequence[Any] = (await tx.execute(select(*columns).where(_O.tenant == tenant, condition))).all()
    return rows


async def _wholes(tx: AsyncSession, tenant: str, parts: Sequence[Row[Any]]) -> dict[int, set[tuple[str, str]]]:
    """Give the orders that these are parts of, with the Study Instance UID and accession number of their parts."""
    found: dict[int, set[tuple[str, str]]] = {}
    told: dict[int, set[tuple[str, str]]] = {}
    left = list(parts)
    while left:
        for row in left:
            told.setdefault(row.id, set()).add((row.study_instance_uid, row.accession))
        up = {(row.id, row.joined_into) for row in left if not row.floating}
        up |= await _sharing(tx, [row.id for row in left if row.floating])
        for part, whole in up:
            told.setdefault(whole, set()).update(told[part])
        wholes = await _orders(tx, tenant, _O.id.in_({whole for _, whole in up}))
        found |= {row.id: told[row.id] for row in wholes if row.joined_into is None}
        left = [row for row in wholes if row.joined_into is not None]
    return found


async def _sharing(tx: AsyncSession, floating: Collection[int]) -> set[tuple[int, int]]:
    """Give each of these, which have an accession number only, with each order that has the same."""
    if not floating:
        return set()
    own, other = order_numbers.alias().c, order_numbers.alias().c
    same = (own.tenant == other.tenant) & (own.value == other.value) & (own.scope == other.scope)
    wanted = (own.kind == "floating") & (other.kind == "accession") & own.order_id.in_(floating)
    return {(row[0], row[1]) for row in await tx.execute(select(own.order_id, other.order_id).where(same, wanted))}


def _candidate(row: Any, numbers: frozenset[tuple[str, str]], former: Collection[tuple[str, str]]) -> Candidate:
    scheduled = next(iter(step.items(row.attributes, "ScheduledProcedureStepSequence")), {})
    return Candidate(
        row.id,
        row.study_instance_uid,
        row.accession,
        step.text(scheduled, "ScheduledProcedureStepID"),
        numbers,
        row.modality,
        row.site,
        row.state == "cancelled",
        row.step_id,
        frozenset(study for study, _ in former),
        frozenset(accession for _, accession in former),
    )


async def keep_references(
    tx: AsyncSession, mpps_id: int, references: Sequence[Reference], links: Sequence[Link | None]
) -> None:
    """Keep which scheduled steps a new step names, and which items they are."""
    await tx.execute(
        mpps_items.insert(),
        [
            {
                "mpps_id": mpps_id,
                "number": number,
                "study_instance_uid": reference.study_instance_uid,
                "accession": reference.accession,
                "step_id": reference.step_id,
                "referenced": list(reference.referenced),
                "item_id": None if link is None else link.item_id,
                "matched_by": None if link is None else link.by,
                "contradicts": link is not None and link.contradicts,
            }
            for number, (reference, link) in enumerate(zip(references, links, strict=True))
        ],
    )


async def unlinked(
    tx: AsyncSession, tenant: str, studies: Collection[str], accessions: Collection[str]
) -> list[Row[Any]]:
    """Give references without an item that name one of these studies or accession numbers, with their steps."""
    named = or_(mpps_items.c.study_instance_uid.in_(studies), mpps_items.c.accession.in_(accessions))
    return list(await tx.execute(_references().where(mpps.c.tenant == tenant, mpps_items.c.item_id.is_(None), named)))


async def linked(tx: AsyncSession, item_ids: Collection[int]) -> list[Row[Any]]:
    """Give the references that are these items, with their steps, and what the item's order calls it."""
    query = _references().add_columns(items.c.step_id.label("key")).join(items, items.c.id == mpps_items.c.item_id)
    return list(await tx.execute(query.where(mpps_items.c.item_id.in_(item_ids))))


async def compare(tx: AsyncSession, patient_ids: Collection[int]) -> int:
    """See anew which steps and their orders name different patients, as these were merged or parted.

    Returns
    -------
    int
        How many do since now.
    """
    same = [row.id for row in await families(tx, patients.c.id.in_(patient_ids))]
    wanted = (
        select(mpps_items.c.mpps_id, mpps_items.c.number, mpps_items.c.contradicts, _O.patient_id)
        .add_columns(mpps.c.patient, _ISSUER, mpps.c.modality, mpps.c.site)
        .join(mpps, mpps.c.id == mpps_items.c.mpps_id)
        .join(items, items.c.id == mpps_items.c.item_id)
        .join(orders, _O.id == items.c.order_id)
        .where(_O.patient_id.in_(same))
    )
    rows = list(await tx.execute(wanted))
    numbers = await numbers_of(tx, {row.patient_id for row in rows})
    more = 0
    for row in rows:
        contradicts = performed(row).is_of_another(numbers[row.patient_id])
        if contradicts != row.contradicts:
            reference = (mpps_items.c.mpps_id == row.mpps_id) & (mpps_items.c.number == row.number)
            await tx.execute(update(mpps_items).where(reference).values(contradicts=contradicts))
            more += contradicts
    return more


def performed(row: Any) -> Performed:
    """Give what the step of a row says of itself."""
    return Performed(row.patient, row.issuer or "", row.modality, row.site)


def _references() -> Select[Any]:
    return (
        select(mpps_items, mpps.c.tenant, mpps.c.site, mpps.c.patient, _ISSUER, mpps.c.modality)
        .join(mpps, mpps.c.id == mpps_items.c.mpps_id)
        .order_by(mpps_items.c.mpps_id, mpps_items.c.number)
    )


async def link(tx: AsyncSession, mpps_id: int, number: int, found: Link) -> None:
    """Note which item a reference is."""
    await tx.execute(
        update(mpps_items)
        .where(mpps_items.c.mpps_id == mpps_id, mpps_items.c.number == number)
        .values(item_id=found.item_id, matched_by=found.by, contradicts=found.contradicts)
    )


async def items_of(tx: AsyncSession, mpps_id: int) -> list[int]:
    """Give the items that a step is."""
    rows = await tx.scalars(
        select(mpps_items.c.item_id).where(mpps_items.c.mpps_id == mpps_id, mpps_items.c.item_id.is_not(None))
    )
    return sorted(set(rows))


async def effects(tx: AsyncSession, item_ids: Iterable[int]) -> dict[int, State | None]:
    """Say what becomes of items, by all steps that were performed for them."""
    wanted = sorted(set(item_ids))
    rows = await tx.execute(
        select(mpps_items.c.item_id, mpps.c.state, mpps.c.wrong_entry)
        .join(mpps, mpps.c.id == mpps_items.c.mpps_id)
        .where(mpps_items.c.item_id.in_(wanted))
    )
    performed: dict[int, list[tuple[State, bool]]] = {item_id: [] for item_id in wanted}
    for item_id, state, wrong in rows:
        performed[item_id].append((state, wrong))
    return {item_id: step.effect(each) for item_id, each in performed.items()}


async def mark(tx: AsyncSession, states: Mapping[int, State | None], now: datetime) -> None:
    """Write the performed states of items where they have changed."""
    rows = await tx.execute(select(items.c.id, items.c.performed).where(items.c.id.in_(states)))
    changed = {item_id: states[item_id] for item_id, before in rows if before != states[item_id]}
    for state in sorted(set(changed.values()), key=str):
        await set_performed(tx, [item_id for item_id, after in changed.items() if after == state], state, now)


async def forward(tx: AsyncSession, mpps_id: int, nodes: Iterable[str], now: datetime) -> None:
    """Have a new step forwarded."""
    rows = [
        {"mpps_id": mpps_id, "node": node, "sent": 0, "state": "open", "failures": 0, "due_at": now, "changed_at": now}
        for node in sorted(set(nodes))
    ]
    if rows:
        await tx.execute(mpps_forwards.insert(), rows)


async def more_to_forward(tx: AsyncSession, mpps_id: int, now: datetime) -> None:
    """Have what was said of a step since forwarded, too; one that people must look at stays as it is."""
    await tx.execute(
        update(mpps_forwards)
        .where(and_(mpps_forwards.c.mpps_id == mpps_id, mpps_forwards.c.state == "done"))
        .values(state="open", failures=0, due_at=now, changed_at=now)
    )
