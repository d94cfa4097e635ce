"""What sla is made of."""

from libs.service import Platform, Service
from services.sla.api import make_router


def build(platform: Platform) -> Service:
    """Wire the service. It opens no port of its own and takes no events in this release: its status says so."""
    return Service(name="sla", router=make_router(platform.network))
