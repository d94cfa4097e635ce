"""SQL of patients who are the same. Every function works in its caller's transaction."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, or_, select
from sqlalchemy.ext.asyncio import AsyncSession

from services.worklist.merge import family
from services.worklist.models import patients


async def families(tx: AsyncSession, wanted: ColumnElement[bool]) -> Sequence[Any]:
    """Give patients, and all that are the same as these, each with its number and what it was merged into."""
    columns = (patients.c.id, patients.c.value, patients.c.issuer, patients.c.merged_into)
    found = {row.id: row for row in await tx.execute(select(*columns).where(wanted))}
    new = set(found)
    while new:
        ups = {found[each].merged_into for each in new if found[each].merged_into is not None}
        more = select(*columns).where(or_(patients.c.id.in_(ups), patients.c.merged_into.in_(new)))
        rows = {row.id: row for row in await tx.execute(more) if row.id not in found}
        found |= rows
        new = set(rows)
    return list(found.values())


async def numbers_of(tx: AsyncSession, patient_ids: Iterable[int]) -> Mapping[int, frozenset[tuple[str, str]]]:
    """Give for each of these patients all of its identifiers, each with its issuer."""
    wanted = sorted(set(patient_ids))
    if not wanted:
        return {}
    rows = {row.id: row for row in await families(tx, patients.c.id.in_(wanted))}
    forward = {row.id: int(row.merged_into) for row in rows.values() if row.merged_into is not None}
    return {
        each: frozenset((rows[one].value, rows[one].issuer) for one in family(each, forward))
        for each in wanted
        if each in rows
    }
