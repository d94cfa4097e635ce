"""One connection of the HL7 port: frames in, answers out, in their order."""

import asyncio
from collections.abc import Callable
from typing import Any, Final

from libs.hl7.message import messages
from libs.hl7.mllp import Frames, framed
from libs.telemetry import log
from services.worklist import hl7_metric as metric
from services.worklist.hl7_intake import Intake
from services.worklist.hl7_settings import Hl7Settings
from services.worklist.sender import Known, Stranger

_LOG = log.get(__name__)
CHUNK: Final = 1 << 16
#: From so many bytes on a message counts as large.
_LARGE: Final = 1_000_000
#: Longest message of whom we do not know: long enough to be told so.
_STRANGERS_LONGEST: Final = 65_536


class Conversation:
    """One connection.

    Parameters
    ----------
    known
        Tells who the caller is, by the definition in force.
    room
        How many large messages may be in memory at a time.
    """

    def __init__(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        address: str,
        intake: Intake,
        settings: Hl7Settings,
        *,
        known: Callable[[], Known | Stranger],
        room: asyncio.Semaphore,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._address = address
        self._intake = intake
        self._settings = settings
        self._known = known
        self._room = room
        self._has_room = False
        self._frames = Frames(settings.max_bytes if isinstance(known(), Known) else _STRANGERS_LONGEST)

    async def run(self, stopping: "asyncio.Future[None]") -> None:
        """Take messages until the sender goes, sends what is no HL7, or the service stops."""
        try:
            while not stopping.done():
                data = await self._read(stopping)
                if not data:
                    break
                for frame in self._frames.feed(data):
                    if not await self._answer(frame):
                        return
                self._give_back()
                self._tell()
                if self._frames.broken:
                    return
        finally:
            self._give_back(ended=True)
            if self._frames.open:
                metric.ODDITIES.labels(kind="truncated").inc()
                _LOG.warning("an HL7 message was cut off: it is not answered", address=self._address)

    async def _read(self, stopping: "asyncio.Future[None]") -> bytes:
        """Read what comes; nothing at the end of the stream, when the service stops, or when a message stays out."""
        if self._frames.pending > _LARGE and not self._has_room:
            await self._room.acquire()
            self._has_room = True
        reading = asyncio.ensure_future(self._reader.read(CHUNK))
        timeout = self._settings.message_timeout if self._frames.open else None
        either: list[asyncio.Future[Any]] = [reading, stopping]
        try:
            await asyncio.wait(either, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
            return reading.result() if reading.done() else b""
        finally:
            if not reading.done():
                reading.cancel()

    async def _answer(self, frame: bytes) -> bool:
        """Answer each message of a frame; tell whether the connection goes on."""
        known = self._known()
        for raw in messages(frame):
            for answer in await self._intake.take(raw, known, self._address):
                self._writer.write(framed(answer))
            async with asyncio.timeout(self._settings.answer_timeout):
                await self._writer.drain()
        return isinstance(known, Known)

    def _give_back(self, *, ended: bool = False) -> None:
        if self._has_room and (ended or self._frames.pending <= _LARGE):
            self._has_room = False
            self._room.release()

    def _tell(self) -> None:
        for kind in self._frames.oddities:
            metric.ODDITIES.labels(kind=kind).inc()
            if kind == "truncated":
                _LOG.warning("an HL7 message was cut off: it is not answered", address=self._address)
        self._frames.oddities.clear()
        if self._frames.broken:
            _LOG.warning("HL7 connection closed", address=self._address, reason=self._frames.broken)
