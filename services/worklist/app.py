"""What worklist is made of."""

from datetime import timedelta
from functools import partial
from zoneinfo import ZoneInfo

from libs.messaging.outbox import Outbox
from libs.service import Platform, Service
from libs.snapshot import NetworkView
from services.worklist.api import make_router
from services.worklist.filing import Zones
from services.worklist.handlers import register
from services.worklist.hl7_api import add_routes
from services.worklist.hl7_port import Hl7Port
from services.worklist.keeping import Keeping
from services.worklist.linking import Linking
from services.worklist.linking_api import make_linking_router
from services.worklist.matching_api import make_matching_router
from services.worklist.matching_settings import MatchingSettings
from services.worklist.meeting import Meeting
from services.worklist.merge_api import make_merge_router
from services.worklist.models import messaging
from services.worklist.order_api import make_order_router
from services.worklist.orders import Orders
from services.worklist.performing import Performing
from services.worklist.port import Port
from services.worklist.query_api import make_query_router
from services.worklist.settings import WorklistSettings
from services.worklist.step_api import make_step_router


def build(platform: Platform) -> Service:
    """Wire the service, in the order in which an order goes through it."""
    database = platform.database("worklist")
    outbox = Outbox("worklist", platform.settings.region, platform.clock, messaging)
    zones = _zones(platform.network)
    settings = MatchingSettings()
    meeting = Meeting(
        zones,
        platform.clock,
        outbox,
        order_grace=timedelta(hours=settings.order_grace_hours),
        study_grace=timedelta(hours=settings.study_grace_hours),
        looked_back=timedelta(days=settings.unmatched_days),
    )
    orders = Orders(database, outbox, zones, platform.clock, meeting)
    register(platform.broker, meeting, database, platform.clock)
    router = make_router(platform.network)
    router.include_router(make_order_router(database, orders, platform.network, platform.clock))
    router.include_router(make_merge_router(database, orders))
    router.include_router(make_query_router(database, platform.network))
    router.include_router(make_matching_router(database, meeting))
    router.include_router(make_linking_router(database, Linking(database, outbox, platform.clock)))
    keeping = Keeping(database, platform.clock, days=WorklistSettings().messages_days)
    performing = Performing(platform, database, outbox)
    router.include_router(make_step_router(database, performing.forwarding, platform.clock))
    port = Port(platform, database, outbox, performing.steps)
    hl7 = Hl7Port(platform, orders, port.resolved)
    add_routes(router, database, platform.network, orders, platform.clock)

    async def start() -> None:
        await port.start()
        try:
            await hl7.start()
        except BaseException:
            await port.stop()
            raise

    async def stop() -> None:
        # Orders first: what came is answered while the database is still there.
        await hl7.stop()
        await port.stop()

    return Service(
        name="worklist",
        database=database,
        tables=messaging,
        router=router,
        start=start,
        stop=stop,
        loops=(
            *(port.follow, port.record, port.resolve, performing.forwarding.run),
            *(partial(meeting.watch, database), keeping.run),
        ),
        checks={"worklist": port.check},
        addresses=lambda: {**port.addresses(), **hl7.addresses()},
    )


def _zones(network: NetworkView) -> Zones:
    """Tell by what clock a site lives."""

    def zone(site: str) -> ZoneInfo:
        if network.current is None:
            return ZoneInfo("UTC")
        definition = network.current.definition
        known = definition.sites.get(site)
        return ZoneInfo((known.timezone if known else None) or definition.timezone)

    return zone
