"""What a receipt says, read from the tables of egress."""

from collections.abc import Sequence
from typing import Any, Final

from sqlalchemy import Row, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.egress.models import deliveries, items, transformed
from services.egress.receipt import Receipt, ReceiptItem, SentAs

#: Before the names of what was made of it.
_MADE: Final = "made_"
#: When what was said of an instance.
_TIMES: Final = ("sent_at", "committed_at", "found_at", "missing_at")


async def delivery(tx: AsyncSession, delivery_id: str) -> Row[Any] | None:
    """Read a delivery."""
    return (await tx.execute(select(deliveries).where(deliveries.c.id == delivery_id))).one_or_none()


async def current_items(tx: AsyncSession, delivery_id: str) -> Sequence[Row[Any]]:
    """Read the instances of a delivery that count: not those whose content another one took the place of."""
    names = ("sop_instance_uid", "content_hash", "size", "transform", "state", "status", *_TIMES)
    made = (transformed.c[name].label(f"{_MADE}{name}") for name in SentAs.model_fields)
    wanted = (
        select(*(items.c[name] for name in names), *made)
        .outerjoin_from(items, transformed, transformed.c.item == items.c.id)
        .where(items.c.delivery_id == delivery_id, items.c.current)
    )
    return (await tx.execute(wanted)).all()


def receipt(row: Row[Any], rows: Sequence[Row[Any]], region: str) -> Receipt:
    """Make the receipt of a delivery that is done; `row.expected_hash` and `row.completed_at` are set."""
    listed = tuple(
        ReceiptItem(
            sop_instance_uid=item.sop_instance_uid,
            content_hash=item.content_hash,
            size=item.size,
            transform=item.transform or None,
            sent_as=_sent_as(item),
            state=item.state,
            status=item.status,
            **{name: getattr(item, name) for name in _TIMES},
        )
        # Databases differ in how they sort texts.
        for item in sorted(rows, key=lambda item: (item.sop_instance_uid, item.content_hash, item.transform))
    )
    # Requests for the same version can come after it was complete, with another transform.
    answered = [row.completed_at, *(item.sent_at for item in listed if item.sent_at is not None)]
    return Receipt(
        region=region,
        delivery_id=row.id,
        tenant=row.tenant,
        study_instance_uid=row.study_instance_uid,
        destination=row.destination,
        study_version=row.study_version,
        expected_count=row.expected_count,
        expected_hash=row.expected_hash,
        network_version=row.network_version,
        requested_at=row.requested_at,
        completed_at=max(answered),
        attempts=row.attempts,
        items=listed,
    )


def _sent_as(item: Row[Any]) -> SentAs | None:
    values = {name: getattr(item, f"{_MADE}{name}", None) for name in SentAs.model_fields}
    return None if values["version"] is None or item.state != "sent" else SentAs.model_validate(values)
