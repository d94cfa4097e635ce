"""A TCP proxy on loopback that can end TLS, and be told to hang: connections stay, and nothing passes."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Self

_CHUNK = 1 << 16


class Proxy:
    """Passes bytes on between its port and another.

    Parameters
    ----------
    port
        The other one.
    own
        Its own; 0 for any that is free.
    tls
        It ends TLS, as what operators have in front of HTTP.
    """

    def __init__(self, port: int, own: int = 0, tls: ssl.SSLContext | None = None) -> None:
        self._to = port
        self._own = own
        self._tls = tls
        self._flows = asyncio.Event()
        self._flows.set()
        self._writers: list[asyncio.StreamWriter] = []
        self.port = 0

    def hang(self) -> None:
        """Let nothing pass from now on."""
        self._flows.clear()

    def flow(self) -> None:
        """Let everything pass, what came meanwhile too."""
        self._flows.set()

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.append(writer)
        await self._flows.wait()
        with suppress(OSError):
            other_reader, other_writer = await asyncio.open_connection("127.0.0.1", self._to)
            self._writers.append(other_writer)
            await asyncio.gather(self._pass(reader, other_writer), self._pass(other_reader, writer))

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                await self._flows.wait()
                writer.write(data)
                await writer.drain()
        writer.close()

    @asynccontextmanager
    async def standing(self) -> AsyncIterator[Self]:
        """Stand before the other port until the block ends."""
        server = await asyncio.start_server(self._accepted, "127.0.0.1", self._own, ssl=self._tls)
        self.port = server.sockets[0].getsockname()[1]
        try:
            yield self
        finally:
            self.flow()
            server.close()
            for writer in self._writers:
                writer.close()
