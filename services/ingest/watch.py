"""Watches the disks of spool and objects: says early that room runs out, and that it is there again."""

import asyncio
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit

from sqlalchemy.exc import SQLAlchemyError

from contracts.room import RoomChanged, RoomState
from libs.messaging.outbox import Outbox
from libs.storage.database import Database
from libs.telemetry import log
from services.ingest import metric
from services.ingest.disk import measure
from services.ingest.room import Room

_LOG = log.get(__name__)
#: Tenant of what concerns nobody's studies.
_NETWORK: Final = "kivuko"
_INTERVAL: Final = 2.0
_LEVELS: Final[Mapping[RoomState, int]] = {"ample": 0, "low": 1, "full": 2}
_ADVICE: Final = "free some space or enlarge the disk; `kivuko retention plan` shows which copies may go, and when"


class NoRoomError(Exception):
    """A disk is full. The text says which, and what to do."""

    safe_to_log = True


@dataclass
class _Place:
    name: str
    folder: Path
    room: Room
    #: What was logged last, and what the others were told.
    said: RoomState = "ample"
    told: RoomState = "ample"
    free: int = field(default=0)


def places(spool: Path, objects_url: str) -> dict[str, Path]:
    """Name the disks to watch: that of the spool, and that of the objects if it is another one of this machine's."""
    found = {"spool": spool}
    parts = urlsplit(objects_url)
    if parts.scheme == "file":
        folder = Path(unquote(parts.path))
        if folder.stat().st_dev != spool.stat().st_dev:
            found["objects"] = folder
    return found


class Watch:
    """The disks of a replica.

    Parameters
    ----------
    places
        Folder on each disk, by name.
    needed
        Bytes that are kept free.
    share, hours
        When a disk is said to be low: see `services.ingest.room.Room`.
    """

    def __init__(
        self,
        database: Database,
        outbox: Outbox,
        places: Mapping[str, Path],
        *,
        replica: str,
        needed: int,
        share: float,
        hours: float,
    ) -> None:
        self._database = database
        self._outbox = outbox
        self._replica = replica
        self._needed = needed
        self._places = [_Place(name, folder, Room(needed, share=share, hours=hours)) for name, folder in places.items()]

    async def run(self) -> None:
        """Look until cancelled."""
        while True:
            for place in self._places:
                try:
                    await self._look(place)
                except (OSError, SQLAlchemyError) as error:
                    metric.FAILURES.labels(kind="room").inc()
                    _LOG.warning(
                        "room not measured or not told, tried again", item=place.name, reason=type(error).__name__
                    )
            await asyncio.sleep(_INTERVAL)

    def check(self) -> None:
        """Raise NoRoomError if a disk is full."""
        for place in self._places:
            if place.room.state == "full":
                what = "nothing more is taken" if place.name == "spool" else "what arrives waits in the spool"
                raise NoRoomError(
                    f"the disk of {place.name} is full, {what}: {place.free} bytes are free and {self._needed} are "
                    "kept free (KIVUKO_INGEST_MIN_FREE_BYTES). Free some space or enlarge the disk"
                )

    async def _look(self, place: _Place) -> None:
        place.free, total = await asyncio.to_thread(measure, place.folder)
        state = place.room.see(place.free, total, time.monotonic())
        metric.ROOM_FREE.labels(kind=place.name).set(place.free)
        metric.ROOM_STATE.labels(kind=place.name).set(_LEVELS[state])
        left = place.room.hours_left
        metric.ROOM_HOURS.labels(kind=place.name).set(float("inf") if left is None else left)
        # The log first: with a full disk it may be all that is left.
        if state != place.said:
            self._say(place, state)
            place.said = state
        if state != place.told:
            event = RoomChanged(
                replica=self._replica, place=place.name, state=state, free=place.free, needed=self._needed
            )
            async with self._database.transaction() as tx:
                await self._outbox.emit(tx, event, subject=f"{self._replica}/{place.name}", tenant=_NETWORK)
            place.told = state

    def _say(self, place: _Place, state: RoomState) -> None:
        said: dict[str, Any] = {"item": place.name, "free": place.free, "limit": self._needed, "state": state}
        if state == "ample":
            _LOG.info("disk has room again", **said)
            return
        left = place.room.hours_left
        if left is not None:
            said["reason"] = f"at the rate of the last hours it is full in {left:.1f} hours"
        if state == "full":
            _LOG.error("disk is full", kind="alarm", advice=_ADVICE, **said)
        else:
            _LOG.warning("disk is running out of room", kind="alarm", advice=_ADVICE, **said)
