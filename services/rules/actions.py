"""Carries out what rules ask for besides deliveries, in the transaction of the decision, and says so."""

from collections.abc import Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from contracts.definition import Rule
from contracts.fact import Fact, Source
from contracts.routing import RoutingQuarantined
from contracts.study import StudyTagged
from libs.clock import Clock
from libs.definition.ruleset import Match
from libs.messaging.outbox import Outbox
from libs.telemetry import log
from services.rules import action_rows, metric
from services.rules.action import Tag, decides
from services.rules.plan import Known
from services.rules.repository import Study

_LOG = log.get(__name__)
#: How long a rule looks again and again at a study that it does not match.
LOOKED_AT_FOR: Final = timedelta(days=7)


class Actions:
    """What becomes of a study besides deliveries."""

    def __init__(self, outbox: Outbox, clock: Clock) -> None:
        self._outbox = outbox
        self._clock = clock

    async def tag(self, tx: AsyncSession, study: Study, wanted: Sequence[Tag], network_version: int) -> None:
        """Set tags on a study."""
        if not wanted:
            return
        changed = await action_rows.set_tags(tx, study, wanted, self._clock())
        if changed:
            fact = StudyTagged(
                study_instance_uid=study.study_instance_uid,
                tags={one.name: one.value for one in changed},
                rules={one.name: one.rule for one in changed},
                network_version=network_version,
            )
            await self._emit(tx, study, fact, study.site)

    async def put_aside(
        self,
        tx: AsyncSession,
        study: Study,
        end: Match,
        put: Sequence[Known],
        source: Source,
        network_version: int,
        *,
        version: int | None = None,
    ) -> None:
        """Put instances aside, or a version of a study as a whole, or note that they are discarded."""
        if version is None:
            await action_rows.mark_aside(tx, put, end.rule)
        metric.ASIDE.labels(rule=end.rule, outcome="discarded" if end.quarantine is None else "quarantined").inc(
            len(put)
        )
        if end.quarantine is None:
            return
        count, size = len(put), sum(one.item.size for one in put)
        if version is None:
            count, size = await action_rows.aside_by(tx, study, end.rule)
        key = await action_rows.open_aside(tx, study, end.rule, count, version, self._clock())
        if key is None:
            return
        fact = RoutingQuarantined(
            quarantine_id=key,
            study_instance_uid=study.study_instance_uid,
            rule=end.rule,
            reason=end.quarantine,
            network_version=network_version,
            source=source,
            instance_count=count,
            size=size,
        )
        await self._emit(tx, study, fact, source.site)
        _LOG.warning(
            "a rule put something aside for people",
            study_uid=study.study_instance_uid,
            tenant=study.tenant,
            rule=end.rule,
            kind="alarm",
        )

    async def set_timers(self, tx: AsyncSession, study: Study, rules: Mapping[str, Rule], version: int) -> None:
        """Set the clock for a version of a study that is decided."""
        now = self._clock()
        for name, rule in rules.items():
            wait = timedelta(seconds=rule.after or rule.every or 0)
            last = None if rule.every is None else now + max(LOOKED_AT_FOR, wait)
            await action_rows.set_timer(tx, study, name, version, (now + wait, last))

    async def is_unmatched(
        self, tx: AsyncSession, study: Study, chosen: Sequence[Known], matches: Sequence[Match], *, goes: bool
    ) -> bool:
        """Tell, and note, whether no rule said yet where a study goes, or why nowhere."""
        unmatched = not (goes or decides(matches) or any(one.aside for one in chosen))
        if unmatched:
            # Rare, so that this may be dear: an image that came from its own destination goes nowhere by a rule.
            said = await action_rows.decided_so_far(tx, study)
            unmatched = not any(one["destinations"] or one["notify"] or one.get("discard") for one in said)
        if unmatched != (study.unmatched_at is not None):
            await action_rows.set_unmatched(tx, study, self._clock() if unmatched else None)
        if unmatched:
            metric.UNMATCHED.inc()
            _LOG.error(
                "no rule says where a study goes: see `kivuko rule unmatched`",
                study_uid=study.study_instance_uid,
                tenant=study.tenant,
                kind="alarm",
            )
        return unmatched

    async def _emit(self, tx: AsyncSession, study: Study, fact: Fact, site: str | None) -> None:
        await self._outbox.emit(tx, fact, subject=study.study_instance_uid, tenant=study.tenant, site=site)


def next_look(due_every: int | None, last_at: datetime | None, now: datetime, *, matched: bool) -> datetime | None:
    """Tell when a rule looks at a study again; None: never."""
    if due_every is None or matched:
        return None
    following = now + timedelta(seconds=due_every)
    return following if last_at is not None and following <= last_at else None
