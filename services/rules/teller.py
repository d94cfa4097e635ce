"""Says what was decided: a decision on record and as an event, and requests for deliveries."""

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy.ext.asyncio import AsyncSession

from contracts.routing import RoutingDecided
from libs.clock import Clock
from libs.messaging.outbox import Outbox
from libs.telemetry import log
from services.rules import metric, repository
from services.rules.documents import documents
from services.rules.in_force import InForce
from services.rules.plan import NOTHING, Requested, requests
from services.rules.repository import Study
from services.rules.uses import Uses

_LOG = log.get(__name__)


class Teller:
    """Tells the others, in the transaction of the decision."""

    def __init__(self, outbox: Outbox, clock: Clock, uses: Uses) -> None:
        self._outbox = outbox
        self._uses = uses
        self._clock = clock

    async def say(
        self,
        tx: AsyncSession,
        study: Study,
        decided: RoutingDecided,
        problems: Sequence[str],
        inputs: dict[str, Any],
    ) -> None:
        """Keep a decision, with what it was made from, and tell it; problems are what people must look at."""
        await repository.keep_decision(tx, study, decided, self._clock(), inputs)
        metric.DECISIONS.labels(trigger=decided.trigger, outcome="matched" if decided.matches else "unmatched").inc()
        for match in decided.matches:
            metric.MATCHES.labels(rule=match.rule).inc()
            self._uses.note(match.rule, self._clock())
        if problems:
            metric.PROBLEMS.labels(trigger=decided.trigger).inc()
            for problem in problems:
                _LOG.warning("routing problem", study_uid=study.study_instance_uid, tenant=study.tenant, reason=problem)
        await self._outbox.emit(
            tx, decided, subject=study.study_instance_uid, tenant=study.tenant, site=decided.source.site
        )

    async def request(
        self,
        tx: AsyncSession,
        study: Study,
        made: Sequence[Requested],
        in_force: InForce,
        *,
        closing: int | None = None,
        had: Mapping[str, Mapping[str, str]] = NOTHING,
    ) -> None:
        """Request deliveries: see `plan.requests`."""
        for event in requests(
            study.study_instance_uid, in_force.version, made, closing, had, await documents(tx, made, in_force)
        ):
            metric.REQUESTED.labels(destination=event.destination).inc(len(event.items))
            await self._outbox.emit(
                tx, event, subject=study.study_instance_uid, tenant=study.tenant, site=made[0].instance.source.site
            )
