"""Where egress is wired."""

import asyncio
import random
import secrets

from libs.dicom.uid import new_uid
from libs.messaging.outbox import Outbox
from libs.service import Platform, Service
from libs.telemetry import log
from services.egress.announcing import Announcer
from services.egress.api import make_router
from services.egress.awaited import Awaited
from services.egress.calling import Timeouts
from services.egress.comparer import Comparer
from services.egress.comparison_api import make_comparison_router
from services.egress.comparisons import Comparisons
from services.egress.confirmations import Confirmations
from services.egress.confirmer import Confirmer
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
from services.egress.project import Projects
from services.egress.receipt_api import make_receipt_router
from services.egress.sender import Sender
from services.egress.settings import EgressSettings
from services.egress.signing import FILE, ReceiptKey
from services.egress.transform_api import make_transform_router
from services.egress.transforming import Transforming
from services.egress.transforms.workers import Workers
from services.egress.work import Work

_log = log.get(__name__)


def build(platform: Platform) -> Service:
    """Build the service."""
    settings = EgressSettings()
    database = platform.database("egress")
    outbox = Outbox("egress", platform.settings.region, platform.clock, messaging)
    partner_queues = not platform.settings.broker.startswith("sqlite")
    projects = Projects(settings.secrets)
    deliveries = Deliveries(
        database,
        outbox,
        platform.network,
        settings,
        clock=platform.clock,
        contexts=Credentials(platform.settings, settings.secrets).of,
        projects=projects,
        partner_queues=partner_queues,
    )
    # A restarted process is another worker: what the one before held must not look like its own.
    worker = f"{platform.settings.instance}-{secrets.token_hex(4)}"
    work = Work(database, deliveries, settings, worker=worker, clock=platform.clock, random=random.random)
    timeouts = Timeouts(
        settings.connect_timeout, settings.acse_timeout, settings.response_timeout, settings.network_timeout
    )
    workers = Workers(settings.transforms, settings.transform_memory, settings.transform_seconds)
    transforming = Transforming(
        platform.network,
        projects,
        workers,
        database,
        platform.objects,
        platform.settings.home / "egress" / "transforms",
        settings.transforms,
    )
    sender = Sender(
        work,
        deliveries,
        database,
        platform.network,
        objects=platform.objects,
        timeouts=timeouts,
        settings=settings,
        clock=platform.clock,
        folder=platform.settings.home / "egress",
        transforming=transforming,
    )
    confirmations = Confirmations(
        database, outbox, deliveries, settings, clock=platform.clock, random=random.random, new_uid=new_uid
    )
    confirmer = Confirmer(
        confirmations,
        deliveries,
        database,
        timeouts=timeouts,
        settings=settings,
        clock=platform.clock,
        random=random.random,
    )
    comparer = Comparer(
        Comparisons(database, outbox, deliveries, platform.clock, new_uid),
        confirmer,
        deliveries,
        database,
        platform.network,
        timeouts=timeouts,
        settings=settings,
        worker=worker,
        clock=platform.clock,
    )
    register(platform.broker, deliveries, confirmations, database, platform.clock)

    orders = Orders(database, deliveries, platform.clock)
    router = make_router(database, deliveries)
    router.include_router(make_order_router(database, orders))
    router.include_router(make_edit_router(database, orders, deliveries))
    destinations = Destinations(database, deliveries, work, orders, timeouts, platform.clock)
    router.include_router(make_destination_router(destinations))
    router.include_router(make_transform_router(transforming, platform.clock))
    router.include_router(make_comparison_router(database, destinations, comparer, platform.clock))
    # Where there may be replicas, each would make a key of its own.
    own_key = platform.settings.home / FILE if database.dialect == "sqlite" else None
    key = ReceiptKey(settings.receipt_key, own_key)
    router.include_router(make_receipt_router(database, key, platform.settings.region))
    links = make_links(
        platform.settings.objects,
        settings.public_objects_url,
        platform.objects,
        work.trusted_since,
        platform.clock,
    )
    if links is None and settings.public_objects_url is not None:
        _log.warning("partners get no links: KIVUKO_EGRESS_PUBLIC_OBJECTS_URL needs an object store by S3")
    router.include_router(make_fetch_router(database, platform.network, platform.objects, links))

    async def objects() -> None:
        await asyncio.to_thread(platform.objects.check)

    patience = Patience(database, deliveries, platform.network, settings, platform.clock)
    awaited = Awaited(database, deliveries, platform.network, projects, transforming, platform.clock)
    measurement = Measurement(database, platform.clock)
    loops = [sender.run, confirmer.run, comparer.run, measurement.run, sender.follow_clock, patience.run, awaited.run]
    if partner_queues and settings.public_url is not None:
        announcer = Announcer(
            deliveries,
            work,
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
