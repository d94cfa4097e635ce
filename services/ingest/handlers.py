"""What ingest does with events: it notes where a study went, so that retention knows what it may let go."""

from typing import Final

from faststream.rabbit import RabbitBroker
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.delivery import DeliveryCompleted
from contracts.envelope import Event
from contracts.routing import RoutingDecided
from libs.clock import Clock
from libs.messaging.consume import consume
from libs.storage.database import Database
from services.ingest import holdings
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

    @consume(broker, "ingest", DeliveryCompleted, database, messaging, clock, linger=_LINGER_S)
    async def on_delivery_completed(event: Event[DeliveryCompleted], tx: AsyncSession) -> None:
        said = event.data
        study = event.tenant, said.study_instance_uid
        await holdings.note_delivered(tx, study, said.study_version, said.destination, clock())
