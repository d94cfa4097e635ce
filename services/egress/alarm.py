"""Says that people must look at a delivery, once what made it so is committed."""

from typing import Any

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from libs.telemetry import log
from services.egress import metric

#: Key in a session's `info`: what is to be said.
_ALARMS = "egress.alarms"
_log = log.get(__name__)


def raise_alarm(tx: AsyncSession, delivery: Row[Any], reason: str) -> None:
    """Have it said when the transaction commits that a delivery does not go on by itself."""
    tx.info.setdefault(_ALARMS, []).append((delivery.id, delivery.destination, reason))


def sound(tx: AsyncSession) -> None:
    """Say it: a line in the log at error level, and a count. Nothing of a patient or a study is in it."""
    for delivery, destination, reason in tx.info.pop(_ALARMS, ()):
        metric.ALARMS.labels(destination).inc()
        _log.error(
            "a delivery is parked: people must look at it",
            delivery=delivery,
            destination=destination,
            reason=reason,
            kind="alarm",
            advice="see `kivuko delivery show`, mend the cause, then `kivuko delivery retry`",
        )
