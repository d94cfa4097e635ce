"""What was made of instances before they were sent: written down before the first byte leaves."""

from collections.abc import Iterable
from typing import Any

from sqlalchemy import Row, delete, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.egress.models import transformed
from services.egress.repository import insert_of
from services.egress.transforms.engine import Transformed


async def note(tx: AsyncSession, item: int, version: str, made: Transformed) -> None:
    """Write down what is about to be sent of an item, in place of what was before."""
    values = {
        "version": version,
        "sop_instance_uid": made.sop_instance_uid,
        "study_instance_uid": made.study_instance_uid,
        "transfer_syntax_uid": made.transfer_syntax_uid,
        "content_hash": made.content_hash,
        "size": made.size,
    }
    insertion = insert_of(tx)(transformed)
    await tx.execute(insertion.on_conflict_do_update(index_elements=["item"], set_=values), [{"item": item, **values}])


async def forget(tx: AsyncSession, item: int) -> None:
    """Write down that an item is about to be sent as it is kept."""
    await tx.execute(delete(transformed).where(transformed.c.item == item))


async def of_items(tx: AsyncSession, ids: Iterable[int]) -> dict[int, Row[Any]]:
    """Read what was made of items; those that went as they are kept are left out."""
    found = await tx.execute(select(transformed).where(transformed.c.item.in_(list(ids))))
    return {row.item: row for row in found}
