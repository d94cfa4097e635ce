"""Which studies are an order's own, kept and told: by matching, or by a person's word."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Final

from sqlalchemy import Row
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.order import OrderPlaced
from libs.clock import Clock
from libs.messaging.outbox import Outbox
from libs.storage.database import Database
from services.worklist import link_rows, matching_rows, repository, telling
from services.worklist.match import Found
from services.worklist.repository import Counters

#: Ties that others can't find for themselves: a number says nothing of them.
_UNSAID: Final = ("patient", "hand")


class LinkError(Exception):
    """A person's word does not fit what is known. The text says why, `advice` what to do; both without patient data."""

    def __init__(self, why: str, advice: str) -> None:
        super().__init__(why)
        self.advice = advice


async def tell(tx: AsyncSession, outbox: Outbox, order_ids: Iterable[int], counters: Counters, now: datetime) -> None:
    """Tell which studies are the own ones of orders, where that is different from what was told last.

    Parameters
    ----------
    tx
        Holds the lock of those who write orders.
    """
    for row in await link_rows.told_orders(tx, order_ids):
        before = OrderPlaced.model_validate(row.told)
        studies = await link_rows.studies_of(tx, row.id)
        linked = {one.study_instance_uid for one in studies if one.matched_by in _UNSAID} - {row.study_instance_uid}
        unlinked = await link_rows.unlinked_from(tx, row.id)
        said = {
            "linked_study_instance_uids": tuple(sorted(linked)),
            "unlinked_study_instance_uids": tuple(sorted(unlinked - linked)),
        }
        if all(getattr(before, name) == uids for name, uids in said.items()):
            continue
        now_told = before.model_copy(update={**said, "revision": counters.next_revision()})
        await link_rows.note_told(tx, row.id, now_told.model_dump(mode="json", exclude={"revision"}), now)
        event = telling.event(now_told, before)
        await outbox.emit(tx, event, subject=event.study_instance_uid, tenant=row.tenant, site=row.site)


class Linking:
    """Takes a person's word for it, and takes it back."""

    def __init__(self, database: Database, outbox: Outbox, clock: Clock) -> None:
        self._database = database
        self._outbox = outbox
        self._clock = clock

    async def link(self, study_id: int, order_id: int, who: str, reason: str) -> None:
        """Have a study belong to an order. The same again changes nothing. Raises LinkError."""
        async with self._database.transaction() as tx:
            counters = await repository.lock(tx)
            study = await link_rows.study(tx, study_id)
            order = await link_rows.order(tx, order_id)
            _check(study, order)
            if (study.order_id, study.matched_by) == (order_id, "hand"):
                return
            # Who links it has looked at the patients.
            await matching_rows.link(tx, study_id, Found(order_id, "hand", contradicts=False))
            await self._note(tx, counters, study, order_id, "link", who, reason)

    async def unlink(self, study_id: int, who: str, reason: str) -> int:
        """Take a study from its order, and from being matched with it again; give that order. Raises LinkError."""
        async with self._database.transaction() as tx:
            counters = await repository.lock(tx)
            study = await link_rows.study(tx, study_id)
            if study.order_id is None:
                raise LinkError("The study belongs to no order.", "`kivuko worklist unmatched` lists such studies.")
            order_id = int(study.order_id)
            await link_rows.free(tx, study_id)
            await self._note(tx, counters, study, order_id, "unlink", who, reason)
            return order_id

    async def _note(
        self, tx: AsyncSession, counters: Counters, study: Row[Any], order_id: int, act: str, who: str, reason: str
    ) -> None:
        now = self._clock()
        row = {
            "tenant": study.tenant, "study_instance_uid": study.study_instance_uid, "order_id": order_id, "act": act,
            "who": who, "reason": reason, "matched_by": study.matched_by, "at": now,
        }  # fmt: skip
        await link_rows.note(tx, row)
        await tell(tx, self._outbox, [order_id], counters, now)
        await repository.give_back(tx, counters)


def _check(study: Row[Any], order: Row[Any]) -> None:
    if order.tenant != study.tenant:
        raise LinkError(
            f"The order is of the tenant {order.tenant}, and the study of {study.tenant}.",
            "Nothing is shared between tenants: link it to an order of its own.",
        )
    if order.joined_into is not None:
        raise LinkError(
            f"Order {order.id} is a part of order {order.joined_into}.", f"Link it to order {order.joined_into}."
        )
    if study.order_id not in (None, order.id):
        raise LinkError(
            f"The study belongs to order {study.order_id} already ({study.matched_by}).",
            "If that is wrong, take it back first: `kivuko worklist unlink STUDY --why WHY`.",
        )
