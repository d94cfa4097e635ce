"""HTTP routes of sla."""

from fastapi import APIRouter
from pydantic import BaseModel, Field

from libs.snapshot import NetworkView
from libs.web.permission import requires
from services.sla.part import Part, parts


class Status(BaseModel):
    """What this release of the service does, and what it does not do yet."""

    network_version: int | None = Field(description="Version of the network definition that it knows.")
    parts: tuple[Part, ...]


def make_router(network: NetworkView) -> APIRouter:
    """Give the routes of `/v1/sla`."""
    router = APIRouter()

    @router.get("/status", dependencies=[requires("status.read")])
    async def status() -> Status:
        """Tell what is in force."""
        snapshot = network.current
        return Status(
            network_version=None if snapshot is None else snapshot.version,
            parts=parts(None if snapshot is None else snapshot.definition),
        )

    return router
