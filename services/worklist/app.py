"""What worklist is made of."""

from libs.service import Platform, Service
from services.worklist.api import make_router


def build(platform: Platform) -> Service:
    """Wire the service. It opens no port of its own and takes no events in this release: its status says so."""
    return Service(name="worklist", router=make_router(platform.network))
