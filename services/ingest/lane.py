"""The supervisor's end of the line to one receiver, and the receiver's process."""

import asyncio
import os
import socket
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from libs.telemetry import log
from services.ingest.wire import Frames, Message, OutOfStepError, frame

_LOG = log.get(__name__)
_READ: Final = 1 << 18
#: Kinds of message that nobody waits for.
_TOLD: Final = frozenset({"spooled", "answered"})
#: Room for what a receiver says while this process has no time to listen.
_BUFFER: Final = 1 << 20
#: Threads of one process take turns: a few heaps are enough, and idle ones cost nothing then.
_ENVIRONMENT: Final = {"MALLOC_ARENA_MAX": "2"}
_STOP_TIMEOUT: Final = 10.0
#: Seconds in which what it tells may gather when it has asked nothing: to wake for each arrival costs more than to take
#: it up.
_REST: Final = 0.01
#: What hands a connection over, and the connection.
Handover = tuple[Message, socket.socket]


class Lane:
    """One receiver. From one event loop only.

    Parameters
    ----------
    name
        Of the receiver, `receiver-0`.
    said
        Called with each message.
    lost
        Called once when nothing more will come, whether it was stopped or died, with the connections that it was to
        have and never had, each with the message that was to hand it over.
    """

    def __init__(
        self, name: str, said: Callable[["Lane", Message], None], lost: Callable[["Lane", list[Handover]], None]
    ) -> None:
        self.name = name
        self._said = said
        self._lost = lost
        self._loop = asyncio.get_running_loop()
        self._frames = Frames()
        self._waiting: deque[tuple[bytes, Handover | None]] = deque()
        self._ended = asyncio.Event()
        ours, theirs = socket.socketpair()
        with theirs:
            for end in (ours, theirs):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
            # Never a fork: threads and open databases of this process must not go with it.
            self._process = subprocess.Popen(
                [sys.executable, "-m", "services.ingest.receiver", str(theirs.fileno())],
                pass_fds=(theirs.fileno(),),
                stdin=subprocess.DEVNULL,
                env={**os.environ, **_ENVIRONMENT},
            )
        ours.setblocking(False)
        self._socket = ours
        self._listen()

    @property
    def pid(self) -> int:
        """Of its process."""
        return self._process.pid

    def send(self, message: Message, connected: socket.socket | None = None) -> None:
        """Say something, with a connection to hand over, which is closed here; what comes too late is dropped.

        A connection that its process did not live to take is not: `lost` is called with it.
        """
        if self._ended.is_set():
            if connected is not None:
                connected.close()
            return
        self._waiting.append((frame(message), None if connected is None else (message, connected)))
        self._write()

    def kill(self) -> None:
        """End it now; what it said and was not read yet is lost, but not what is in its folder."""
        self._process.kill()
        self._close()

    async def stop(self) -> None:
        """Have it end in order; kill it if it does not."""
        self.send({"kind": "stop"})
        try:
            async with asyncio.timeout(_STOP_TIMEOUT):
                await self._ended.wait()
        except TimeoutError:
            _LOG.error("receiver did not end when asked, killed", pid=self.pid, item=self.name)
            self._process.kill()
            await self._ended.wait()
        await self.gone()

    async def gone(self) -> int:
        """Wait until its process is no more; give its exit status."""
        try:
            return await asyncio.to_thread(self._process.wait, _STOP_TIMEOUT)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return await asyncio.to_thread(self._process.wait)

    def _read(self) -> None:
        try:
            data = self._socket.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self._close()
            return
        asked = False
        try:
            for message in self._frames.feed(data):
                asked = asked or message["kind"] not in _TOLD
                self._said(self, message)
        except OutOfStepError as error:
            _LOG.error("receiver out of step, killed", item=self.name, reason=str(error))
            self.kill()
            return
        if not asked and not self._ended.is_set():
            self._loop.remove_reader(self._socket)
            self._loop.call_later(_REST, self._listen)

    def _listen(self) -> None:
        if not self._ended.is_set():
            self._loop.add_reader(self._socket, self._read)

    def _write(self) -> None:
        while self._waiting:
            data, handover = self._waiting[0]
            try:
                if handover is None:
                    sent = self._socket.send(data)
                else:
                    sent = socket.send_fds(self._socket, [data], [handover[1].fileno()])
            except BlockingIOError:
                self._loop.add_writer(self._socket, self._write)
                return
            except OSError:
                # It died; what it had, and what it was to have, is taken up when the reader notices.
                self._waiting = deque(each for each in self._waiting if each[1] is not None)
                self._loop.remove_writer(self._socket)
                return
            if handover is not None:
                handover[1].close()
            if sent < len(data):
                self._waiting[0] = (data[sent:], None)
            else:
                self._waiting.popleft()
        self._loop.remove_writer(self._socket)

    def _close(self) -> None:
        if self._ended.is_set():
            return
        self._ended.set()
        self._loop.remove_reader(self._socket)
        self._loop.remove_writer(self._socket)
        with suppress(OSError):
            self._socket.close()
        left = [handover for _, handover in self._waiting if handover is not None]
        self._waiting.clear()
        self._lost(self, left)
