"""What ingest does with events.

It notes where a study went, so that retention knows what it may let go, and what modalities say that they made of it.
"""

from typing import Final, Literal

from faststream.rabbit import RabbitBroker
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.delivery import DeliveryCompleted, DeliveryDiverted, DeliveryOrdered
from contracts.envelope import Event
from contracts.procedure import ProcedureCompleted, ProcedureDiscontinued, ProcedureStarted
from contracts.routing import RoutingDecided, RoutingQuarantined
from libs.clock import Clock
from libs.messaging.consume import consume
from libs.storage.database import Database
from services.ingest import holdings, procedures, ruled
from services.ingest.models import messaging
from services.ingest.performed import Step

#: Retention counts in days: each transaction may take what comes in so many seconds.
_LINGER_S: Final = 0.5


def register(broker: RabbitBroker, database: Database, clock: Clock) -> None:
    """Subscribe to the events that ingest consumes."""

    @consume(broker, "ingest", RoutingDecided, database, messaging, clock, linger=_LINGER_S)
    async def on_routing_decided(event: Event[RoutingDecided], tx: AsyncSession) -> None:
        said = event.data
        # Only a decision on a whole version says where all of it goes. One of a release that did not say keeps it here.
        if said.study_version is not None and said.destinations is not None:
            study = event.tenant, said.study_instance_uid
            await holdings.note_decision(tx, study, said.study_version, said.destinations, clock())
            if said.discarded is not None:
                await holdings.note_discarded(tx, study, said.study_version, said.discarded)

    @consume(broker, "ingest", RoutingQuarantined, database, messaging, clock)
    async def on_routing_quarantined(event: Event[RoutingQuarantined], tx: AsyncSession) -> None:
        await ruled.put_aside(tx, event.tenant, event.data, clock())

    @consume(broker, "ingest", DeliveryCompleted, database, messaging, clock, linger=_LINGER_S)
    async def on_delivery_completed(event: Event[DeliveryCompleted], tx: AsyncSession) -> None:
        said = event.data
        study = event.tenant, said.study_instance_uid
        await holdings.note_delivered(tx, study, said.study_version, said.destination, clock())

    @consume(broker, "ingest", DeliveryOrdered, database, messaging, clock)
    async def on_delivery_ordered(event: Event[DeliveryOrdered], tx: AsyncSession) -> None:
        said = event.data
        # A release that did not say which version was cancelled: it is kept here.
        waived = (said.study_version or 0) if said.order == "cancelled" else 0
        study = event.tenant, said.study_instance_uid
        await holdings.note_word(tx, study, said.destination, (waived, None), event.sequence, clock())

    @consume(broker, "ingest", DeliveryDiverted, database, messaging, clock)
    async def on_delivery_diverted(event: Event[DeliveryDiverted], tx: AsyncSession) -> None:
        said = event.data
        # As long as not all of it has arrived there it is kept here.
        waived = (0, None) if said.arrived_version is None else (said.arrived_version, said.instead)
        study = event.tenant, said.study_instance_uid
        await holdings.note_word(tx, study, said.destination, waived, event.sequence, clock())

    _register_procedures(broker, database, clock)


def _register_procedures(broker: RabbitBroker, database: Database, clock: Clock) -> None:
    @consume(broker, "ingest", ProcedureStarted, database, messaging, clock)
    async def on_procedure_started(event: Event[ProcedureStarted], tx: AsyncSession) -> None:
        study = event.tenant, event.data.study_instance_uid
        await procedures.note(tx, study, event.data.mpps_instance_uid, Step("in-progress"), clock())

    @consume(broker, "ingest", ProcedureCompleted, database, messaging, clock)
    async def on_procedure_completed(event: Event[ProcedureCompleted], tx: AsyncSession) -> None:
        await ended(event, "completed", tx)

    @consume(broker, "ingest", ProcedureDiscontinued, database, messaging, clock)
    async def on_procedure_discontinued(event: Event[ProcedureDiscontinued], tx: AsyncSession) -> None:
        await ended(event, "discontinued", tx)

    async def ended(
        event: Event[ProcedureCompleted] | Event[ProcedureDiscontinued],
        state: Literal["completed", "discontinued"],
        tx: AsyncSession,
    ) -> None:
        said = event.data
        study = event.tenant, said.study_instance_uid
        made = {each.series_instance_uid: each.instance_count for each in said.series or ()}
        await procedures.note(tx, study, said.mpps_instance_uid, Step(state, said.instance_count, made), clock())
        await procedures.look_now(tx, study, clock())
