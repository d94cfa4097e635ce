"""Wires network."""

import secrets

from libs.messaging.outbox import Outbox
from libs.service import Platform, Service
from services.network import repository
from services.network.api import make_router
from services.network.models import messaging
from services.network.register import Register
from services.network.token import TokenRegister


def build(platform: Platform) -> Service:
    """Build the service `network`."""
    database = platform.database("network")
    outbox = Outbox("network", platform.settings.region, platform.clock, messaging)

    async def check_definition() -> None:
        await repository.current_snapshot(database)

    return Service(
        name="network",
        database=database,
        tables=messaging,
        router=make_router(
            database,
            Register(database, outbox, platform.clock),
            TokenRegister(database, outbox, platform.clock, secrets.token_bytes),
        ),
        checks={"database": check_definition},
    )


def register(platform: Platform) -> Register:
    """Build what puts definitions in force, for a process that applies one at its start."""
    outbox = Outbox("network", platform.settings.region, platform.clock, messaging)
    return Register(platform.database("network"), outbox, platform.clock)
