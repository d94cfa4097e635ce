"""Every event becomes a record."""

import hashlib
from collections.abc import Callable
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from contracts.envelope import Event
from libs.clock import Clock
from services.audit import repository


def recorder(clock: Clock) -> Callable[[Event[Any], bytes, AsyncSession], Any]:
    """Give the handler of all events."""

    async def on_event(event: Event[Any], raw: bytes, tx: AsyncSession) -> None:
        now = clock()
        if await repository.append(tx, _values(event, raw) | {"recorded_at": now}):
            await repository.count_in(tx, event.source, event.sequence, now)

    return on_event


def _values(event: Event[Any], raw: bytes) -> dict[str, Any]:
    return {
        "source": event.source,
        "event_id": event.id,
        "sequence": event.sequence,
        "type": event.type,
        "time": event.time,
        "tenant": event.tenant,
        "site": event.site,
        "subject": event.subject,
        "study_instance_uid": getattr(event.data, "study_instance_uid", None),
        "sha256": hashlib.sha256(raw).hexdigest(),
        "body": raw,
    }
