"""What rules do with events."""

from faststream.rabbit import RabbitBroker
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.envelope import Event
from contracts.instances import InstancesStored
from contracts.study import StudyAmended, StudyCompleted, StudyExpired
from libs.clock import Clock
from libs.messaging.consume import consume
from libs.storage.database import Database
from services.rules.decider import Decider
from services.rules.models import messaging


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
