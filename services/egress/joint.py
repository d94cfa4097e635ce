"""What a delivery carries for others that were diverted to it. Every function works in the caller's transaction.

A study lies whole in one place: the delivery that takes over has all instances of the one that was diverted, and is
done when all that it was asked for by its own name, and all that each of the others was asked for, has arrived.
Whoever locks a delivery and the one that it is diverted to locks them in this order, unless both are known before.
"""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy import Row, and_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.delivery import DeliveryItem
from contracts.manifest import set_hash
from services.egress import repository
from services.egress.decided import Aim, Decided, renew
from services.egress.delivery import Closing, Request, delivery_id
from services.egress.hold import columns, noted
from services.egress.models import deliveries, items

#: Columns of a delivery of which no person ordered anything.
NO_ORDER: Final = {"ordered": None, "ordered_by": None, "ordered_at": None, "ordered_why": None}
#: Columns of a delivery that goes where it was to go.
NOT_DIVERTED: Final = {"diverted_to": None, "diverted_at": None, "diverted_by": None, "diverted_why": None}
#: Instances that are written at once; databases take only so many values in a statement.
_AT_ONCE: Final = 500
#: A time is not noted anew if it is that of so short ago.
_LATELY: Final = timedelta(minutes=1)
_CLOSING = ("study_version", "expected_count", "expected_hash")
_OWN = ("own_version", "own_count", "own_hash")
#: Columns of an item that a request names. That it came round is of one request, and kept nowhere.
_ITEM = tuple(name for name in DeliveryItem.model_fields if name != "came_round")


def anew(now: datetime) -> dict[str, Any]:
    """Give the columns of a delivery that somebody wants from now on, whatever was given up before."""
    return {"wanted_since": now, "given_up": None}


def alternate_of(row: Row[Any]) -> str | None:
    """Give the identifier of the delivery that a diverted one goes with; none if it goes by itself."""
    return None if row.diverted_to is None else delivery_id(row.tenant, row.study_instance_uid, row.diverted_to)


def own_request(row: Row[Any]) -> Request:
    """Give what was asked for by the name of the delivery's own destination."""
    request = repository.request_of(row)
    if not row.joined:
        return request
    closing = None if row.own_version is None else Closing(row.own_version, row.own_count, row.own_hash)
    return replace(request, closing=closing)


def own_columns(closing: Closing | None) -> dict[str, Any]:
    """Give the columns of what was asked for by a delivery's own name, where it carries more than that."""
    values: tuple[int | None, int | None, str | None] = (None, None, None)
    if closing is not None:
        values = (closing.study_version, closing.expected_count, closing.expected_hash)
    return dict(zip(_OWN, values, strict=True))


async def join(tx: AsyncSession, row: Row[Any], to: str, now: datetime, aim: Aim, *, released: bool) -> Row[Any]:
    """Have the delivery to another destination take a locked one over; give that delivery, locked.

    It gets all current instances, the more urgent lane of both, and counts as asked for anew. `released`: whatever a
    person ordered for it before.
    """
    key = delivery_id(row.tenant, row.study_instance_uid, to)
    mine = repository.request_of(row)
    await repository.ensure_delivery(
        tx,
        id=key,
        tenant=row.tenant,
        site=row.site,
        study_instance_uid=row.study_instance_uid,
        destination=to,
        state="open",
        lane=mine.lane,
        lane_by=row.lane_by,
        requested_at=mine.first[0],
        source_node=mine.first[1],
        network_version=mine.network_version,
        traceparent=row.traceparent,
        wanted_since=now,
        joined=True,
    )
    other = await repository.lock_delivery(tx, key)
    if other is None:
        raise RuntimeError("a delivery vanished between its insertion and its lock")
    both = repository.request_of(other).merged(mine)
    changes: dict[str, Any] = {
        "lane": other.lane if other.lane_by else both.lane,
        "requested_at": both.first[0],
        "source_node": both.first[1],
        "network_version": both.network_version,
        "joined": True,
        **anew(now),
        # A rule's hold goes along; who sends it elsewhere by hand wants it there now.
        **columns(noted(other) if released else both.hold),
    }
    if not other.joined:
        changes |= dict(zip(_OWN, (getattr(other, name) for name in _CLOSING), strict=True))
    if released or other.ordered == "cancelled":
        changes |= NO_ORDER
    await repository.update_delivery(tx, key, **changes)
    found = await tx.execute(
        select(items).where(items.c.delivery_id == row.id, items.c.current).order_by(items.c.transform, items.c.id)
    )
    groups: dict[Decided, list[DeliveryItem]] = {}
    for each in found:
        wanted = DeliveryItem.model_construct(**{name: getattr(each, name) for name in _ITEM})
        decided = Decided(each.transform, each.transform_version, each.decided_under)
        groups.setdefault(decided, []).append(wanted)
    for decided, group in groups.items():
        await ask_for(tx, other, decided, group, now, aim, own=False)
    return other


async def ask_for(
    tx: AsyncSession,
    row: Row[Any],
    decided: Decided,
    wanted: Sequence[DeliveryItem],
    now: datetime,
    aim: Aim,
    *,
    own: bool,
) -> None:
    """Ask for instances at a locked delivery; `own`: by the name of its own destination."""
    for start in range(0, len(wanted), _AT_ONCE):
        part = wanted[start : start + _AT_ONCE]
        said = {"transform": decided.transform, "transform_version": decided.version, "decided_under": decided.under}
        await repository.add_items(tx, row.id, part, now, own=own, **said)
        await renew(tx, row.id, part, decided, lambda: aim(tx, row.destination, decided), now)


async def pass_on(
    tx: AsyncSession,
    row: Row[Any],
    new: Request,
    decided: Decided,
    wanted: Sequence[DeliveryItem],
    now: datetime,
    aim: Aim,
    *,
    again: bool,
) -> list[str]:
    """Hand what was asked for of a diverted delivery on, as far as it goes; name the deliveries that got it.

    `again`: a later version of the study asks than the one that was asked for before.
    """
    passed: list[str] = []
    while (key := alternate_of(row)) is not None and key not in passed:
        other = await repository.lock_delivery(tx, key)
        if other is None:
            raise RuntimeError("the delivery that another one is diverted to is not there")
        both = repository.request_of(other).merged(new)
        changes = {"lane": other.lane if other.lane_by else both.lane} | asked(other, now, again=again)
        changes |= columns(both.hold)
        await repository.update_delivery(tx, key, **changes, network_version=both.network_version)
        await ask_for(tx, other, decided, wanted, now, aim, own=False)
        await reckon(tx, key)
        passed.append(key)
        row = other
    return passed


def asked(row: Row[Any], now: datetime, *, again: bool) -> dict[str, Any]:
    """Give the columns of a delivery for which more is asked; `again`: by a later version of the study.

    That ends a cancellation, and what was given up. If nothing was to be sent, nothing has been tried for long.
    """
    if again:
        return anew(now) | (NO_ORDER if row.ordered == "cancelled" else {})
    nothing = row.state == "done" or (row.state == "open" and row.next_attempt_at is None)
    # A study that streams asks many times a second.
    lately = row.wanted_since is not None and abs(now - row.wanted_since) < _LATELY
    return {"wanted_since": now} if nothing and not lately else {}


async def own(tx: AsyncSession, key: str, transform: str | None, wanted: Iterable[DeliveryItem]) -> None:
    """Note that instances were asked for by the name of the delivery's own destination."""
    uids = [each.sop_instance_uid for each in wanted]
    if uids:
        mine = and_(items.c.delivery_id == key, items.c.transform == (transform or ""))
        hashes = [each.content_hash for each in wanted]
        await tx.execute(
            update(items)
            .where(mine, items.c.sop_instance_uid.in_(uids), items.c.content_hash.in_(hashes))
            .values(own=True)
        )


async def sources(tx: AsyncSession, row: Row[Any]) -> Sequence[Row[Any]]:
    """Read the deliveries that are diverted to one."""
    found = await tx.execute(
        select(deliveries)
        .where(
            deliveries.c.tenant == row.tenant,
            deliveries.c.study_instance_uid == row.study_instance_uid,
            deliveries.c.diverted_to == row.destination,
        )
        .order_by(deliveries.c.id)
    )
    return found.all()


async def carried(tx: AsyncSession, row: Row[Any]) -> list[Row[Any]]:
    """Read the deliveries that one carries something of: those that are diverted to it, to these, and so on."""
    found: dict[str, Row[Any]] = {}
    waiting = [row]
    while waiting:
        for each in await sources(tx, waiting.pop()):
            if each.id not in found and each.id != row.id:
                found[each.id] = each
                waiting.append(each)
    return list(found.values())


async def reckon(tx: AsyncSession, key: str) -> None:
    """Note which version, and which set of instances, a locked delivery is done with, of all that it carries."""
    row = await repository.lock_delivery(tx, key)
    if row is None or not row.joined:
        return
    parts = [
        (await _set(tx, each.id), repository.request_of(each).closing)
        for each in await sources(tx, row)
        # What it had taken over itself, and was taken back, nobody asks of it.
        if await has_own(tx, each) or await sources(tx, each)
    ]
    mine = own_request(row).closing
    asked = await has_own(tx, row)
    if asked:
        parts.append((await _set(tx, key, own_only=True), mine))
    if not parts:
        # Nobody asks for it any more: it stays as it is.
        return
    whole = await _set(tx, key)
    closing = None
    if all(_complete(found, expected) for found, expected in parts):
        versions = [expected.study_version for _, expected in parts if expected is not None]
        version = mine.study_version if asked and mine is not None else max(versions)
        closing = Closing(version, len({uid for uid, _ in whole}), set_hash(whole))
    values = (closing.study_version, closing.expected_count, closing.expected_hash) if closing else (None,) * 3
    await repository.update_delivery(tx, key, **dict(zip(_CLOSING, values, strict=True)))


async def has_own(tx: AsyncSession, row: Row[Any]) -> bool:
    """Tell whether anything was asked for by the name of the delivery's own destination."""
    if not row.joined or row.own_version is not None:
        return True
    query = select(items.c.id).where(items.c.delivery_id == row.id, items.c.own).limit(1)
    return (await tx.execute(query)).one_or_none() is not None


async def leads_to(tx: AsyncSession, row: Row[Any], destination: str) -> bool:
    """Tell whether a delivery goes, by itself or by diversions, to a destination."""
    seen: set[str] = set()
    while row.destination != destination:
        key = alternate_of(row)
        if key is None or key in seen:
            return False
        seen.add(key)
        found = await repository.read_delivery(tx, key)
        if found is None:
            return False
        row = found
    return True


async def part(tx: AsyncSession, row: Row[Any]) -> list[str]:
    """Let a locked, diverted delivery go by itself again.

    Returns
    -------
    list
        Deliveries that nobody asks for any more, now that this one goes by itself; they are locked.
    """
    left: list[str] = []
    now_alone = row
    while (key := alternate_of(now_alone)) is not None:
        await repository.update_delivery(tx, now_alone.id, **NOT_DIVERTED, arrived_version=None)
        other = await repository.lock_delivery(tx, key)
        if other is None:
            raise RuntimeError("the delivery that another one is diverted to is not there")
        if await has_own(tx, other) or await sources(tx, other):
            await reckon(tx, key)
            break
        left.append(key)
        now_alone = other
    return left


async def _set(tx: AsyncSession, key: str, *, own_only: bool = False) -> set[tuple[str, str]]:
    mine = and_(items.c.delivery_id == key, items.c.current)
    if own_only:
        mine = and_(mine, items.c.own)
    found = await tx.execute(select(items.c.sop_instance_uid, items.c.content_hash).where(mine))
    return {(row.sop_instance_uid, row.content_hash) for row in found}


def _complete(found: set[tuple[str, str]], closing: Closing | None) -> bool:
    if closing is None or len({uid for uid, _ in found}) != closing.expected_count:
        return False
    return closing.expected_hash in (None, set_hash(found))
