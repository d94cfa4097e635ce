"""The ports: accepts connections, and hands them on as they come."""

import asyncio
import errno
import socket
from collections.abc import Callable
from typing import Final

from libs.telemetry import log

_LOG = log.get(__name__)
#: Senders come in crowds after an outage.
_BACKLOG: Final = 512
#: Connections that are accepted in a row before others have their turn.
_AT_ONCE: Final = 32
_PAUSE: Final = 0.2
#: The caller gave up between its connection and now.
_GIVEN_UP: Final = frozenset({errno.ECONNABORTED, errno.EPROTO, errno.EPERM, errno.ENETUNREACH, errno.EHOSTUNREACH})

#: A connection, its source address and port, whether it is to speak TLS.
Take = Callable[[socket.socket, str, int, bool], None]


class Listener:
    """One listening port. From one event loop only.

    Parameters
    ----------
    host, port
        Where to listen; 0 picks a free port. Raises OSError if that can't be.
    tls
        Whether callers are to speak TLS.
    take
        Called with each connection, which belongs to the callee then.
    """

    def __init__(self, host: str, port: int, *, tls: bool, take: Take) -> None:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self._socket.setblocking(False)
        self._tls = tls
        self._take = take
        self._loop = asyncio.get_running_loop()
        self._paused: asyncio.TimerHandle | None = None
        self._loop.add_reader(self._socket, self._accept)

    @property
    def address(self) -> str:
        """HOST:PORT that it listens on."""
        host, port = self._socket.getsockname()[:2]
        return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"

    def close(self) -> None:
        """Stop listening."""
        if self._paused is not None:
            self._paused.cancel()
        self._loop.remove_reader(self._socket)
        self._socket.close()

    def _accept(self) -> None:
        for _ in range(_AT_ONCE):
            try:
                connected, (host, port, *_) = self._socket.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if error.errno in _GIVEN_UP:
                    continue
                self._pause(error)
                return
            connected.setblocking(True)
            self._take(connected, host, port, self._tls)

    def _pause(self, error: OSError) -> None:
        # Out of descriptors or memory: the callers wait in the backlog, and this loop does not spin meanwhile.
        _LOG.error("connections not accepted for now", reason=type(error).__name__, code=error.errno, delay=_PAUSE)
        self._loop.remove_reader(self._socket)
        self._paused = self._loop.call_later(_PAUSE, self._loop.add_reader, self._socket, self._accept)
