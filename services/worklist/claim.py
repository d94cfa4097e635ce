"""Orders that come after the modality has begun: what was performed without a scheduled step finds its item."""

from collections.abc import Iterable
from datetime import datetime

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
        references = [
            Reference(row.study_instance_uid, row.accession, row.step_id, tuple(row.referenced)) for row in rows
        ]
        candidates = await step_rows.candidates(tx, tenant, references)
        claimed = []
        for row, reference in zip(rows, references, strict=True):
            found = link.choose(reference, candidates, row.patient, row.modality)
            if found is not None:
                await step_rows.link(tx, row.mpps_id, row.number, found)
                claimed.append(found.item_id)
        if claimed:
            await step_rows.mark(tx, await step_rows.effects(tx, claimed), now)
