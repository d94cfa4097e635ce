"""What was performed finds its item: orders come after the modality has begun, or turn out to be one order."""

from collections.abc import Collection, Iterable
from datetime import datetime
from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from services.worklist import link, step_rows
from services.worklist.link import Reference


async def claim(tx: AsyncSession, written: Iterable[tuple[str, str, str]], now: datetime) -> None:
    """Link steps that have no item to those of orders that were written in this transaction.

    Parameters
    ----------
    tx
        Holds the lock of those who write items, and has given back what it counted.
    written
        Tenant, Study Instance UID and accession number of each order.
    """
    by_tenant: dict[str, list[tuple[str, str]]] = {}
    for tenant, study_uid, accession in written:
        by_tenant.setdefault(tenant, []).append((study_uid, accession))
    for tenant, named in sorted(by_tenant.items()):
        studies = {study_uid for study_uid, _ in named}
        rows = await step_rows.unlinked(tx, tenant, studies, {accession for _, accession in named if accession})
        if not rows:
            continue
        references = [_reference(row) for row in rows]
        candidates = await step_rows.candidates(tx, tenant, references)
        claimed = []
        for row, reference in zip(rows, references, strict=True):
            found = link.choose(reference, candidates, step_rows.performed(row))
            if found is not None:
                await step_rows.link(tx, row.mpps_id, row.number, found)
                claimed.append(found.item_id)
        if claimed:
            await step_rows.mark(tx, await step_rows.effects(tx, claimed), now)


async def follow(tx: AsyncSession, gone: Collection[int], now: datetime) -> None:
    """Give the steps of items that were taken off to those that are there instead, if it is plain which these are.

    Parameters
    ----------
    tx
        As for `claim`.
    gone
        Items that were taken off in this transaction: orders turned out to be one, or a newer schedule leaves them out.
    """
    if not gone:
        return
    changed = set()
    for row in await step_rows.linked(tx, gone):
        reference = _reference(row)
        candidates = await step_rows.candidates(tx, row.tenant, [reference])
        left = [each for each in candidates if each.item_id not in gone]
        found = link.follow(reference, row.key, row.matched_by, left, step_rows.performed(row))
        if found is not None:
            await step_rows.link(tx, row.mpps_id, row.number, found)
            changed |= {row.item_id, found.item_id}
    if changed:
        await step_rows.mark(tx, await step_rows.effects(tx, changed), now)


def _reference(row: Row[Any]) -> Reference:
    return Reference(row.study_instance_uid, row.accession, row.step_id, tuple(row.referenced))
