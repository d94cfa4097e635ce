"""Every event becomes a record."""

import hashlib
import json
from collections.abc import Callable
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from contracts.envelope import Event
from contracts.topics import BY_TYPE
from libs.clock import Clock
from services.audit import repository

LONGEST_UID = 64


def recorder(clock: Clock) -> Callable[[Event[Any], bytes, AsyncSession], Any]:
    """Give the handler of all events."""

    async def on_event(event: Event[Any], raw: bytes, tx: AsyncSession) -> None:
        now = clock()
        if await repository.append(tx, _values(event, raw) | {"recorded_at": now}):
            await repository.count_in(tx, event.source, event.sequence, now)

    return on_event


def _study(event: Event[Any], raw: bytes) -> str | None:
    if event.type in BY_TYPE:
        return getattr(event.data, "study_instance_uid", None)
    # Of a newer release: its data are not known here, but a study has the same name in all of them.
    data = json.loads(raw).get("data")
    uid = data.get("study_instance_uid") if isinstance(data, dict) else None
    return uid if isinstance(uid, str) and len(uid) <= LONGEST_UID else None


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
        "study_instance_uid": _study(event, raw),
        "sha256": hashlib.sha256(raw).hexdigest(),
        "body": raw,
    }
