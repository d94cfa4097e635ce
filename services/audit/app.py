"""What audit is made of."""

import asyncio
from datetime import timedelta

from sqlalchemy import text

from libs.messaging.consume import consume_all
from libs.service import Platform, Service
from libs.telemetry import log, metric
from services.audit import repository
from services.audit.api import LATE, make_router
from services.audit.handlers import recorder
from services.audit.models import messaging

#: Nobody waits for a record: each transaction may take what comes in so many seconds.
_LINGER_S = 0.5
#: How often gaps are looked at.
WATCH_EVERY = timedelta(minutes=1)

_log = log.get("kivuko.audit")
_missing = metric.gauge(
    "kivuko_audit_missing_events", "Events that a producer counted and that have not come.", ["region", "service"]
)


def build(platform: Platform) -> Service:
    """Wire the service: one queue for all events, the records, the routes."""
    database = platform.database("audit")
    clock = platform.clock
    consume_all(platform.broker, "audit", database, messaging, clock, linger=_LINGER_S)(recorder(clock))

    async def watch_gaps() -> None:
        while True:
            async with database.reading() as tx:
                missing = await repository.count_missing(tx, clock() - LATE)
            _missing.clear()
            for source, count in missing.items():
                _missing.labels(*source.split("/")[1:]).set(count)
                _log.error("events missing", source=source, count=count)
            await asyncio.sleep(WATCH_EVERY.total_seconds())

    async def can_read() -> None:
        async with database.reading() as tx:
            await tx.execute(text("SELECT 1"))

    return Service(
        name="audit",
        database=database,
        tables=messaging,
        router=make_router(database, clock),
        loops=(watch_gaps,),
        checks={"database": can_read},
    )
