"""What ingest does with events: it notes where a study went, so that retention knows what it may let go."""

from typing import Final

from faststream.rabbit import RabbitBroker
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.delivery import DeliveryCompleted, DeliveryDiverted, DeliveryOrdered
from contracts.envelope import Event
from contracts.routing import RoutingDecided, RoutingQuarantined
from libs.clock import Clock
from libs.messaging.consume import consume
from libs.storage.database import Database
from services.ingest import holdings, ruled
from services.ingest.models import messaging

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
