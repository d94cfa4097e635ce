"""Where egress is wired."""

import asyncio
import random
import secrets

from libs.messaging.outbox import Outbox
from libs.service import Platform, Service
from libs.telemetry import log
from services.egress.announcing import Announcer
from services.egress.api import make_router
from services.egress.calling import Timeouts
from services.egress.credentials import Credentials
from services.egress.deliveries import Deliveries
from services.egress.destination_api import Destinations, make_destination_router
from services.egress.edit_api import make_edit_router
from services.egress.fetch_api import make_fetch_router
from services.egress.handlers import register
from services.egress.linking import make_links
from services.egress.measurement import Measurement
from services.egress.models import messaging
from services.egress.order_api import make_order_router
from services.egress.orders import Orders
from services.egress.patience import Patience
from services.egress.receipt_api import make_receipt_router
from services.egress.sender import Sender
from services.egress.settings import EgressSettings
from services.egress.signing import FILE, ReceiptKey

_log = log.get(__name__)


def build(platform: Platform) -> Service:
    """Build the service."""
    settings = EgressSettings()
    database = platform.database("egress")
    outbox = Outbox("egress", platform.settings.region, platform.clock, messaging)
    partner_queues = not platform.settings.broker.startswith("sqlite")
    deliveries = Deliveries(
        database,
        outbox,
        platform.network,
        settings,
        # A restarted process is another worker: what the one before held must not look like its own.
        worker=f"{platform.settings.instance}-{secrets.token_hex(4)}",
        clock=platform.clock,
        random=random.random,
        contexts=Credentials(platform.settings, settings.secrets).of,
        partner_queues=partner_queues,
    )
    timeouts = Timeouts(
        settings.connect_timeout, settings.acse_timeout, settings.response_timeout, settings.network_timeout
    )
    sender = Sender(
        deliveries,
        database,
        platform.network,
        objects=platform.objects,
        timeouts=timeouts,
        settings=settings,
        clock=platform.clock,
        folder=platform.settings.home / "egress",
    )
    register(platform.broker, deliveries, database, platform.clock)

    orders = Orders(database, deliveries, platform.clock)
    router = make_router(database)
    router.include_router(make_order_router(database, orders))
    router.include_router(make_edit_router(database, orders, deliveries))
    router.include_router(make_destination_router(Destinations(database, deliveries, orders, timeouts, platform.clock)))
    # Where there may be replicas, each would make a key of its own.
    own_key = platform.settings.home / FILE if database.dialect == "sqlite" else None
    key = ReceiptKey(settings.receipt_key, own_key)
    router.include_router(make_receipt_router(database, key, platform.settings.region))
    links = make_links(
        platform.settings.objects,
        settings.public_objects_url,
        platform.objects,
        deliveries.trusted_since,
        platform.clock,
    )
    if links is None and settings.public_objects_url is not None:
        _log.warning("partners get no links: KIVUKO_EGRESS_PUBLIC_OBJECTS_URL needs an object store by S3")
    router.include_router(make_fetch_router(database, platform.network, platform.objects, links))

    async def objects() -> None:
        await asyncio.to_thread(platform.objects.check)

    patience = Patience(database, deliveries, platform.network, settings, platform.clock)
    loops = [sender.run, Measurement(database, platform.clock).run, sender.follow_clock, patience.run]
    if partner_queues and settings.public_url is not None:
        announcer = Announcer(
            deliveries,
            database,
            platform.broker,
            region=platform.settings.region,
            public_url=settings.public_url,
            poll=settings.poll,
            clock=platform.clock,
        )
        loops.append(announcer.run)

    return Service(
        name="egress",
        database=database,
        tables=messaging,
        router=router,
        loops=loops,
        checks={"objects": objects},
    )
