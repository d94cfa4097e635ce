"""What rules decided to do to instances on their way: kept as it was then, done as it was, done again when it changed.

Of a rule's transform what it said when it was decided counts, of a destination's what it says when it is sent. Whether
an instance has to go again is asked only when rules ask for it anew, under a later version of the definition: then it
goes if what would be done now is not what was done. In the caller's transaction.
"""

import hashlib
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from pydantic import ValidationError
from sqlalchemy import Row, and_, bindparam, func, or_, select, update
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.definition import Definition, Transform
from contracts.delivery import DeliveryItem
from services.egress.models import documents, items, transformed
from services.egress.outcome import NO_SECRET, TRANSFORM
from services.egress.repository import AFRESH, insert_of
from services.egress.transforms.engine import Step

#: What a transform said; or why this release can't tell; or nothing: what the definition in force says.
Said = Transform | str | None
_made: Final = func.coalesce(transformed.c.version, "")
_MADE_LAST: Final = select(transformed.c.version).where(transformed.c.item == items.c.id).scalar_subquery()
#: `ids`, `now`: instances that arrived otherwise than they were to when rules asked for them meanwhile.
_REPEAT: Final = (
    update(items)
    .where(
        items.c.id.in_(bindparam("ids", expanding=True)),
        items.c.state == "sent",
        items.c.wanted.is_not(None),
        items.c.wanted != func.coalesce(_MADE_LAST, ""),
    )
    .values(**AFRESH, wanted=None, next_attempt_at=bindparam("now"))
    .returning(items.c.delivery_id)
)


@dataclass(frozen=True)
class Decided:
    """What was decided of instances, besides where they go.

    Attributes
    ----------
    transform
        Name of the rule's; empty for none.
    version
        What it said then: see `version_of`; empty where nobody told, so that the definition in force counts.
    under
        Version of the definition under which rules last asked.
    """

    transform: str
    version: str
    under: int


#: Tells the version of all that would be done to instances for a destination now, empty for nothing; none: not known.
Aim = Callable[[AsyncSession, str, Decided], Awaitable[str | None]]


def version_of(document: Mapping[str, Any]) -> str:
    """Give what tells documents of transforms apart: 16 hexadecimal digits."""
    return hashlib.sha256(json.dumps(document, sort_keys=True).encode()).hexdigest()[:16]


def written(transform: Transform) -> dict[str, Any]:
    """Write a transform as requests bring it."""
    return transform.model_dump(mode="json", by_alias=True, exclude_defaults=True)


def steps(definition: Definition | None, destination: str, name: str, said: Said) -> list[Step] | str:
    """Name what is to be done: the rule's transform, then always the destination's; or say why nobody knows."""
    if definition is None or destination not in definition.destinations:
        return f"destination {destination} is not in the network definition, so nobody knows how to change it"
    first: Said = said if name and said is not None else definition.transforms.get(name)
    own = definition.destinations[destination].transform
    last = None if own is None else definition.transforms.get(own)
    for key, found in ((name, first), (own, last)):
        if key and found is None:
            return f"the transform {key} is not in the network definition any more: add it again, then try again"
    if isinstance(first, str):
        return f"transform {name}: {first}"
    rules = [] if first is None else [Step(name, first)]
    return rules if own is None or last is None else [*rules, Step(own, last)]


class Documents:
    """What transforms said, by version. What was read once is kept: it never changes, and there are few."""

    def __init__(self) -> None:
        self._known: dict[str, Said] = {}

    async def of(self, tx: AsyncSession, versions: Iterable[str]) -> dict[str, Said]:
        """Give what these versions of transforms say."""
        wanted = {each for each in versions if each}
        if missing := wanted - self._known.keys():
            found = await tx.execute(select(documents).where(documents.c.version.in_(missing)))
            self._known |= {row.version: _read(row.document) for row in found}
        return {each: self._known.get(each) for each in wanted}


def _read(document: str) -> Said:
    try:
        return Transform.model_validate_json(document)
    except ValidationError:
        return "this release can't do what it said when it was decided; retry it to have done what it says now"


async def keep(tx: AsyncSession, document: Mapping[str, Any]) -> str:
    """Keep what a transform says; give its version."""
    version = version_of(document)
    insertion = insert_of(tx)(documents).on_conflict_do_nothing()
    await tx.execute(insertion, [{"version": version, "document": json.dumps(document, sort_keys=True)}])
    return version


async def renew(
    tx: AsyncSession,
    delivery: str,
    wanted: Sequence[DeliveryItem],
    decided: Decided,
    aim: Callable[[], Awaitable[str | None]],
    now: datetime,
) -> None:
    """Note of instances that are there what was decided anew; those go again to which something else is to be done."""
    older = items.c.decided_under < decided.under
    untold = and_(items.c.decided_under == decided.under, items.c.transform_version == "")
    found = await tx.execute(
        select(items, _made.label("made"))
        .outerjoin_from(items, transformed, transformed.c.item == items.c.id)
        .where(
            items.c.delivery_id == delivery,
            items.c.transform == decided.transform,
            items.c.sop_instance_uid.in_([each.sop_instance_uid for each in wanted]),
            or_(older, untold) if decided.version else older,
        )
    )
    identities = {(each.sop_instance_uid, each.content_hash) for each in wanted}
    rows = [row for row in found if (row.sop_instance_uid, row.content_hash) in identities]
    if not rows:
        return
    await _change(tx, rows, transform_version=decided.version, decided_under=decided.under)
    rows = [row for row in rows if row.decided_under < decided.under]
    to_do = await aim() if rows else None
    if to_do is None:
        return
    in_hand = [row for row in rows if row.leased_by is not None]
    again = [row for row in rows if row.leased_by is None and _goes_again(row, to_do)]
    # Whoever has it in hand does what was decided before.
    await _change(tx, in_hand, wanted=to_do)
    await _change(tx, again, **AFRESH, next_attempt_at=now)


def _goes_again(row: Row[Any], to_do: str) -> bool:
    if row.state == "sent":
        return bool(row.made != to_do)
    return bool(row.state == "failed" and row.status == TRANSFORM)


async def repeat(tx: AsyncSession, ids: Sequence[int], now: datetime) -> list[str]:
    """Have go again what arrived as it was decided before; name the deliveries."""
    return sorted(set((await tx.execute(_REPEAT, {"ids": list(ids), "now": now})).scalars()))


async def mend(tx: AsyncSession, delivery: str, definition: Definition, under: int) -> None:
    """Have instances at which a rule's transform failed changed by what it says in a definition."""
    failed = (
        items.c.delivery_id == delivery,
        items.c.current,
        items.c.state != "sent",
        items.c.status.in_((TRANSFORM, NO_SECRET)),
        items.c.transform != "",
    )
    names = list(await tx.scalars(select(items.c.transform).where(*failed).distinct()))
    for name in names:
        if name in definition.transforms:
            version = await keep(tx, written(definition.transforms[name]))
            # What is asked for late of what was decided before is not to take its place.
            latest = func.max if tx.get_bind().dialect.name == "sqlite" else func.greatest
            await tx.execute(
                update(items)
                .where(*failed, items.c.transform == name)
                .values(transform_version=version, decided_under=latest(items.c.decided_under, under))
            )


async def _change(tx: AsyncSession, rows: Sequence[Row[Any]], **values: Any) -> None:
    if rows:
        await tx.execute(update(items).where(items.c.id.in_([row.id for row in rows])).values(**values))
