"""SQL of procedure steps that modalities have completed. Every function works in its caller's transaction."""

from sqlalchemy import select
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.fact import Source
from contracts.procedure import ProcedureCompleted
from services.rules.models import procedures
from services.rules.occasion import Step
from services.rules.repository import Study


async def keep(tx: AsyncSession, study: Study, said: ProcedureCompleted) -> Step | None:
    """Keep a step; give it, unless it was known."""
    known = {
        "station": said.station_aet,
        "modality": said.modality,
        "accession": said.accession_number or "",
        "status": "COMPLETED",
    }
    facts = {name: value for name, value in known.items() if value}
    insert = (postgresql if tx.get_bind().dialect.name == "postgresql" else sqlite).insert(procedures)
    source = None if said.source is None else said.source.model_dump(mode="json")
    made = await tx.scalars(
        insert.values(
            study_id=study.id,
            mpps_instance_uid=said.mpps_instance_uid,
            facts=facts,
            source=source,
            ended_at=said.ended_at,
        )
        .on_conflict_do_nothing()
        .returning(procedures.c.study_id)
    )
    return Step(facts, said.source) if made.first() is not None else None


async def steps_of(tx: AsyncSession, study: Study) -> list[Step]:
    """Give the steps of a study in the order of their ends."""
    rows = await tx.execute(
        select(procedures.c.facts, procedures.c.source)
        .where(procedures.c.study_id == study.id)
        .order_by(procedures.c.ended_at, procedures.c.mpps_instance_uid)
    )
    return [Step(facts, None if source is None else Source.model_validate(source)) for facts, source in rows]
