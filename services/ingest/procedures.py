"""All SQL of performed procedure steps (MPPS) as evidence, in the caller's transaction."""

from collections.abc import Collection
from datetime import datetime
from typing import Any, Final

from sqlalchemy import bindparam, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from services.ingest.models import procedures, series, studies
from services.ingest.performed import Performed, Step, performed
from services.ingest.work import Study

#: Set on a session that has learned something of a study that waits.
LEARNED: Final = "kivuko.learned"


async def note(tx: AsyncSession, study: Study, mpps_uid: str, step: Step, at: datetime) -> None:
    """Keep what a modality said last; what comes late or again never takes an end back."""
    tenant, study_uid = study
    dialect = postgresql if tx.get_bind().dialect.name == "postgresql" else sqlite
    insert = dialect.insert(procedures)
    values = {"state": step.state, "instance_count": step.count, "series": dict(step.series), "changed_at": at}
    statement = insert.on_conflict_do_update(
        index_elements=["tenant", "study_uid", "mpps_uid"],
        set_={name: insert.excluded[name] for name in values},
        where=procedures.c.state == "in-progress",
    )
    await tx.execute(statement, [{"tenant": tenant, "study_uid": study_uid, "mpps_uid": mpps_uid, **values}])


async def look_now(tx: AsyncSession, study: Study, now: datetime) -> None:
    """Have a study that waits looked at: there is a new sign."""
    tenant, study_uid = study
    await tx.execute(
        update(studies)
        .where(studies.c.tenant == tenant, studies.c.study_uid == study_uid, studies.c.due_at > now)
        .where(or_(studies.c.leased_until.is_(None), studies.c.leased_until <= now))
        .values(due_at=now)
    )
    tx.info[LEARNED] = True


_STEPS = (
    select(studies.c.id, procedures.c.state, procedures.c.instance_count, procedures.c.series)
    .join(procedures, (procedures.c.tenant == studies.c.tenant) & (procedures.c.study_uid == studies.c.study_uid))
    .where(studies.c.id.in_(bindparam("ids", expanding=True)))
)
_KEPT = select(series.c.study_id, series.c.series_uid, series.c.instance_count).where(
    series.c.study_id.in_(bindparam("ids", expanding=True))
)


async def performed_of(tx: AsyncSession, study_ids: Collection[int]) -> dict[int, Performed]:
    """Say of studies what modalities made of them, and what of it is not there; those without a step are left out."""
    steps: dict[int, list[Step]] = {}
    for row in await tx.execute(_STEPS, {"ids": list(study_ids)}):
        steps.setdefault(row.id, []).append(Step(row.state, row.instance_count, row.series))
    if not steps:
        return {}
    kept: dict[int, dict[str, int]] = {study_id: {} for study_id in steps}
    rows: Any = await tx.execute(_KEPT, {"ids": list(steps)})
    for study_id, uid, count in rows:
        kept[study_id][uid] = count
    return {study_id: performed(each, kept[study_id]) for study_id, each in steps.items()}
