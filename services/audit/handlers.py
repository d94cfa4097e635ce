"""Every event becomes a record."""

import hashlib
import json
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from contracts.envelope import Event
from contracts.topics import BY_TYPE
from libs.clock import Clock
from libs.storage.database import before_commit
from services.audit import repository

LONGEST_UID = 64
#: Where a session keeps what is to be recorded.
_GATHERED = "kivuko.audit.records"


def recorder(clock: Clock) -> Callable[[Event[Any], bytes, AsyncSession], Any]:
    """Give the handler of all events. The records of a transaction are written together, right before it commits."""

    async def on_event(event: Event[Any], raw: bytes, tx: AsyncSession) -> None:
        if _GATHERED not in tx.info:
            tx.info[_GATHERED] = []
            before_commit(tx, partial(_record, tx, tx.info[_GATHERED], clock))
        tx.info[_GATHERED].append(_values(event, raw))

    return on_event


async def _record(tx: AsyncSession, gathered: Sequence[dict[str, Any]], clock: Clock) -> None:
    now = clock()
    numbers: dict[str, set[int]] = {}
    for new in await repository.append(tx, [values | {"recorded_at": now} for values in gathered]):
        numbers.setdefault(new["source"], set()).add(new["sequence"])
    # In one order, so that two replicas do not wait for each other crosswise.
    for source in sorted(numbers):
        await repository.count_in(tx, source, sorted(numbers[source]), now)


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
