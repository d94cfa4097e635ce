"""What egress does with events."""

from faststream.rabbit import RabbitBroker
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.commitment import CommitmentReported
from contracts.delivery import DeliveryRequested
from contracts.envelope import Event
from libs.clock import Clock
from libs.messaging.consume import consume
from libs.storage.database import Database
from services.egress.confirmations import Confirmations
from services.egress.deliveries import Deliveries
from services.egress.models import messaging


def register(
    broker: RabbitBroker, deliveries: Deliveries, confirmations: Confirmations, database: Database, clock: Clock
) -> None:
    """Subscribe to the events that egress consumes."""

    @consume(broker, "egress", DeliveryRequested, database, messaging, clock)
    async def on_delivery_requested(event: Event[DeliveryRequested], tx: AsyncSession) -> None:
        await deliveries.merge(event, tx)

    @consume(broker, "egress", CommitmentReported, database, messaging, clock)
    async def on_commitment_reported(event: Event[CommitmentReported], tx: AsyncSession) -> None:
        # What we say ourselves is written down when we say it.
        if not event.source.endswith("/egress"):
            await confirmations.reported(tx, event.data)
