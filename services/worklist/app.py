"""What worklist is made of."""

from zoneinfo import ZoneInfo

from libs.messaging.outbox import Outbox
from libs.service import Platform, Service
from libs.snapshot import NetworkView
from services.worklist.api import make_router
from services.worklist.filing import Zones
from services.worklist.hl7_api import add_routes
from services.worklist.hl7_port import Hl7Port
from services.worklist.merge_api import make_merge_router
from services.worklist.models import messaging
from services.worklist.order_api import make_order_router
from services.worklist.orders import Orders
from services.worklist.port import Port
from services.worklist.query_api import make_query_router


def build(platform: Platform) -> Service:
    """Wire the service, in the order in which an order goes through it."""
    database = platform.database("worklist")
    outbox = Outbox("worklist", platform.settings.region, platform.clock, messaging)
    orders = Orders(database, outbox, _zones(platform.network), platform.clock)
    router = make_router(platform.network)
    router.include_router(make_order_router(database, orders, platform.network, platform.clock))
    router.include_router(make_merge_router(database, orders))
    router.include_router(make_query_router(database, platform.network))
    port = Port(platform, database, outbox)
    hl7 = Hl7Port(platform, orders, port.resolved)
    add_routes(router, database, platform.network, platform.clock)

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
        loops=(port.follow, port.record, port.resolve),
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
