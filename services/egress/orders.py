"""What people order: deliveries are held, cancelled, released, tried again, redirected; destinations paused."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Literal

from sqlalchemy import ColumnElement, and_, not_, or_
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.routing import Priority
from libs.clock import Clock
from libs.storage.database import Database
from services.egress import calls, report, repository
from services.egress.comparison_rows import LACKING
from services.egress.deliveries import Deliveries
from services.egress.delivery import lane
from services.egress.diversion import REDIRECTABLE, divert
from services.egress.joint import NO_ORDER, anew
from services.egress.models import deliveries as table

Verb = Literal["hold", "release", "cancel", "retry", "resend", "redirect", "change"]
#: States in which something may still go; what is done has gone.
_UNFINISHED = table.c.state.in_(("open", "waiting", "held", "failed"))
_AT_ONCE = 100
_TOLD: Final[dict[Verb, Literal["held", "released", "cancelled", "retried"]]] = {
    "hold": "held",
    "release": "released",
    "cancel": "cancelled",
    "retry": "retried",
    "resend": "retried",
}

#: A rule holds it back, and nothing else does.
HELD_BY_RULE = and_(table.c.state == "held", table.c.hold_rule.is_not(None), not_(table.c.hold_off))

#: To which deliveries an order can be given.
FITTING: dict[Verb, ColumnElement[bool]] = {
    "hold": table.c.state.not_in(("done", "diverted")),
    "cancel": _UNFINISHED,
    "release": or_(table.c.ordered.is_not(None), HELD_BY_RULE),
    "retry": and_(table.c.state != "done", table.c.ordered.is_distinct_from("held")),
    # What the destination was seen not to have goes once more, of what is done as well; what is diverted does not.
    "resend": and_(LACKING, table.c.state != "diverted", table.c.ordered.is_distinct_from("held")),
    "redirect": REDIRECTABLE,
    "change": _UNFINISHED,
}
#: To which of them it is given where many are meant, and no state is named.
MEANT: dict[Verb, ColumnElement[bool]] = {
    "hold": and_(_UNFINISHED, table.c.ordered.is_(None)),
    "cancel": _UNFINISHED,
    # What waits for a time goes by itself.
    "release": or_(table.c.ordered == "held", and_(HELD_BY_RULE, table.c.hold_until.is_(None))),
    "retry": table.c.state == "failed",
    "resend": LACKING,
    "redirect": _UNFINISHED,
    "change": _UNFINISHED,
}


@dataclass(frozen=True)
class Given:
    """An order of a person.

    Attributes
    ----------
    by
        Who gives it.
    why
        The reason, if one was given; without data of patients.
    to
        Of a redirection: the destination that is to get it instead.
    priority
        Of a change: its lane from now on.
    """

    verb: Verb
    by: str
    why: str | None = None
    to: str | None = None
    priority: Priority | None = None


class Orders:
    """Carries out what people order. Each order wins over all that egress would do by itself."""

    def __init__(self, database: Database, deliveries: Deliveries, clock: Clock) -> None:
        self._database = database
        self._deliveries = deliveries
        self._clock = clock

    async def give(self, order: Given, keys: Sequence[str]) -> tuple[int, int]:
        """Give an order to deliveries; those that it does not fit (any more) stay as they are.

        Returns
        -------
        tuple
            How many deliveries it was given to, and how many instances of them are tried again by it.
        """
        count = instances = 0
        chosen = sorted(set(keys))
        for start in range(0, len(chosen), _AT_ONCE):
            # In parts, for each makes all others wait; in the order in which everybody locks.
            async with self._database.transaction() as tx:
                batch = chosen[start : start + _AT_ONCE]
                if order.verb == "retry":
                    # Whoever locks destinations and deliveries locks the destinations first.
                    for destination in sorted(await repository.destinations_of(tx, batch)):
                        await calls.probe_now(tx, self._clock(), destination)
                for key in batch:
                    again = await self._give(tx, order, key)
                    if again is not None:
                        count += 1
                        instances += again
        return count, instances

    async def pause(self, destination: str, by: str, why: str | None) -> None:
        """Let nothing go to a destination until it is resumed; what is under way comes to its end."""
        async with self._database.transaction() as tx:
            before = await calls.lock_circuit(tx, destination, wait=True)
            if before is None or before.healthy:
                await self._deliveries.tell_health(tx, destination, f"paused by {by}")
            await calls.pause(tx, destination, by, why, self._clock())
            await self._deliveries.hold_or_release(tx, destination)
        await self._deliveries.settle_held(destination)

    async def resume(self, destination: str) -> None:
        """Let things go to a destination again; if it could not be reached before, one association probes it now."""
        async with self._database.transaction() as tx:
            before = await calls.lock_circuit(tx, destination, wait=True)
            await calls.resume(tx, destination)
            if before is not None and before.paused and not before.failures:
                await self._deliveries.tell_health(tx, destination, None)
            await calls.probe_now(tx, self._clock(), destination)
            await self._deliveries.hold_or_release(tx, destination)
        await self._deliveries.settle_held(destination)

    async def _give(self, tx: AsyncSession, order: Given, key: str) -> int | None:
        if order.verb == "redirect":
            return 0 if await self._redirect(tx, order, key) else None
        now, again = self._clock(), 0
        if not await repository.lock_fitting(tx, key, FITTING[order.verb]):
            return None
        if order.verb == "change":
            await self._change(tx, order, key)
            return 0
        if order.verb in ("hold", "cancel"):
            kind = "held" if order.verb == "hold" else "cancelled"
            values = {"ordered": kind, "ordered_by": order.by, "ordered_at": now, "ordered_why": order.why}
            await repository.update_delivery(tx, key, **values)
        else:
            # What a person lets go no rule holds again.
            released = {"hold_off": table.c.hold_rule.is_not(None)} if order.verb == "release" else {}
            await repository.update_delivery(tx, key, **NO_ORDER, **anew(now), **released)
        if order.verb == "retry":
            # Where only a confirmation is missing, that is asked for at once.
            await repository.update_delivery(tx, key, confirm_at=None, confirm_problem=None)
            row = await repository.lock_delivery(tx, key)
            if row is not None and row.diverted_to is not None:
                await repository.update_delivery(tx, key, stays=True)
                await self._deliveries.go_alone(tx, row, order.by, f"{row.destination} gets it after all")
            await self._deliveries.mend(tx, key)
            again = await repository.retry_items(tx, key, now)
        if order.verb == "resend":
            again = await repository.resend_missing(tx, key, now)
        await self._deliveries.reconsider(
            tx, key, lambda row: report.ordered(row, _TOLD[order.verb], order.by, order.why)
        )
        return again

    async def _redirect(self, tx: AsyncSession, order: Given, key: str) -> bool:
        if order.to is None:
            raise ValueError("a redirection needs a destination")
        row = await repository.read_delivery(tx, key)
        if row is None or self._deliveries.unfit(row.destination, order.to, row.source_node) is not None:
            return False
        return await divert(
            self._deliveries, tx, key, order.to, self._clock(), fitting=REDIRECTABLE, by=order.by, why=order.why
        )

    async def _change(self, tx: AsyncSession, order: Given, key: str) -> None:
        if order.priority is None:
            raise ValueError("a change needs a priority")
        await repository.update_delivery(tx, key, lane=lane(order.priority), lane_by=order.by)
        await self._deliveries.reconsider(tx, key, lambda row: report.changed(row, order.by, order.why))
