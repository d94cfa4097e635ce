"""What worklist does with events."""

from faststream.rabbit import RabbitBroker
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.envelope import Event
from contracts.study import StudyAmended, StudyCompleted
from libs.clock import Clock
from libs.messaging.consume import consume
from libs.storage.database import Database
from services.worklist.meeting import Meeting
from services.worklist.models import messaging


def register(broker: RabbitBroker, meeting: Meeting, database: Database, clock: Clock) -> None:
    """Subscribe to the events that worklist consumes."""

    @consume(broker, "worklist", StudyCompleted, database, messaging, clock)
    async def on_study_completed(event: Event[StudyCompleted], tx: AsyncSession) -> None:
        await meeting.completed(event, tx)

    @consume(broker, "worklist", StudyAmended, database, messaging, clock)
    async def on_study_amended(event: Event[StudyAmended], tx: AsyncSession) -> None:
        await meeting.completed(event, tx)
