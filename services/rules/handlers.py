"""What rules do with events."""

from typing import Final

from faststream.rabbit import RabbitBroker
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.delivery import DeliveryCompleted, DestinationChanged
from contracts.envelope import Event
from contracts.instances import InstancesStored, QuarantineResolved
from contracts.order import OrderCancelled, OrderChanged, OrderPlaced
from contracts.procedure import ProcedureCompleted
from contracts.study import StudyAmended, StudyCompleted, StudyExpired
from libs.clock import Clock
from libs.messaging.consume import consume
from libs.storage.database import Database
from services.rules import action_rows
from services.rules.decider import Decider
from services.rules.models import messaging

#: What was delivered is asked for by timers, which count in minutes: each transaction may take what comes in so long.
_LINGER_S: Final = 0.5


def register(broker: RabbitBroker, decider: Decider, database: Database, clock: Clock) -> None:
    """Subscribe to the events that rules consume."""

    @consume(broker, "rules", InstancesStored, database, messaging, clock)
    async def on_instances_stored(event: Event[InstancesStored], tx: AsyncSession) -> None:
        await decider.stored(event, tx)

    @consume(broker, "rules", StudyCompleted, database, messaging, clock)
    async def on_study_completed(event: Event[StudyCompleted], tx: AsyncSession) -> None:
        await decider.completed(event, tx)

    @consume(broker, "rules", StudyAmended, database, messaging, clock)
    async def on_study_amended(event: Event[StudyAmended], tx: AsyncSession) -> None:
        await decider.completed(event, tx)

    @consume(broker, "rules", StudyExpired, database, messaging, clock)
    async def on_study_expired(event: Event[StudyExpired], tx: AsyncSession) -> None:
        await decider.expired(event, tx)

    @consume(broker, "rules", QuarantineResolved, database, messaging, clock)
    async def on_quarantine_resolved(event: Event[QuarantineResolved], tx: AsyncSession) -> None:
        await decider.resolved(event, tx)

    @consume(broker, "rules", ProcedureCompleted, database, messaging, clock)
    async def on_procedure_completed(event: Event[ProcedureCompleted], tx: AsyncSession) -> None:
        await decider.performed(event, tx)

    @consume(broker, "rules", DeliveryCompleted, database, messaging, clock, linger=_LINGER_S)
    async def on_delivery_completed(event: Event[DeliveryCompleted], tx: AsyncSession) -> None:
        await decider.delivered(event, tx)

    @consume(broker, "rules", DestinationChanged, database, messaging, clock)
    async def on_destination_changed(event: Event[DestinationChanged], tx: AsyncSession) -> None:
        await action_rows.note_health(tx, event.data)

    _register_orders(broker, decider, database, clock)


def _register_orders(broker: RabbitBroker, decider: Decider, database: Database, clock: Clock) -> None:
    @consume(broker, "rules", OrderPlaced, database, messaging, clock)
    async def on_order_placed(event: Event[OrderPlaced], tx: AsyncSession) -> None:
        await decider.told_of_order(event, tx, cancelled=False)

    @consume(broker, "rules", OrderChanged, database, messaging, clock)
    async def on_order_changed(event: Event[OrderChanged], tx: AsyncSession) -> None:
        await decider.told_of_order(event, tx, cancelled=False)

    @consume(broker, "rules", OrderCancelled, database, messaging, clock)
    async def on_order_cancelled(event: Event[OrderCancelled], tx: AsyncSession) -> None:
        await decider.told_of_order(event, tx, cancelled=True)
