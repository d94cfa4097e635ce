"""The listeners of a process: a TCP port, and the Unix socket of the local command line."""

import asyncio
import errno
import fcntl
import os
import socket
from contextlib import suppress
from pathlib import Path

import h11
import uvicorn
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from libs.telemetry import metric
from libs.web.gate import LISTENER, SOCKET

#: Seconds that requests get to finish when the process stops.
GRACE = 10
_LONGEST_SOCKET_PATH = 107  # sun_path of Linux, without its closing zero byte
_BACKLOG = 512
#: Connections at a time on each listener: the rest of a process's files belong to studies.
MOST_CONNECTIONS = 400
#: Seconds that a caller may take to say what it wants.
HEAD_S = 20.0


_turned_away = metric.counter(
    "kivuko_http_turned_away_total", "Connections that were too many, or that said nothing for too long."
)


class ListenError(Exception):
    """A listener cannot be opened; the message says why and what to do."""


class WebServer:
    """One app on a TCP port and on a Unix socket.

    Parameters
    ----------
    app
        The ASGI app.
    host, port
        Address to listen on; port 0 picks a free one.
    socket_path
        Unix socket, mode 0600; none if left out.
    """

    def __init__(self, app: ASGIApp, *, host: str, port: int, socket_path: Path | None = None) -> None:
        self._app = app
        self._host = host
        self._port = port
        self._socket_path = socket_path
        self._lock: int | None = None
        self._running: list[tuple[uvicorn.Server, socket.socket]] = []
        #: Where the port is, once started: `http://127.0.0.1:8080`.
        self.address = ""

    async def start(self) -> None:
        """Listen. Raises ListenError when an address is taken; then nothing listens."""
        tcp = _tcp_listener(self._host, self._port)
        unix = None
        if self._socket_path is not None:
            try:
                self._lock, unix = _unix_listener(self._socket_path)
            except ListenError:
                tcp.close()
                raise
        host, port = tcp.getsockname()[:2]
        self.address = f"http://[{host}]:{port}" if tcp.family == socket.AF_INET6 else f"http://{host}:{port}"
        await self._serve(tcp, "tcp")
        if unix is not None:
            await self._serve(unix, SOCKET)

    async def stop(self) -> None:
        """Take no more requests, let those under way finish, and remove the socket."""
        for server, listener in self._running:
            await server.shutdown([listener])
        self._running.clear()
        if self._lock is not None and self._socket_path is not None:
            # The lock is still ours, so the socket is too.
            self._socket_path.unlink(missing_ok=True)
            os.close(self._lock)
            self._lock = None

    async def _serve(self, listener: socket.socket, name: str) -> None:
        config = uvicorn.Config(
            _Labelled(self._app, name),
            lifespan="off",
            http=_Bounded,
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
            date_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=GRACE,
        )
        config.load()
        server = uvicorn.Server(config)
        # Started by its parts: `serve` would take over the signals, and wake ten times a second for nothing.
        server.lifespan = config.lifespan_class(config)
        await server.startup([listener])
        self._running.append((server, listener))


class _Bounded(H11Protocol):
    """Bounds what callers who never finish can hold: uvicorn sets no limit before a request has its head."""

    _late: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override] # as uvicorn does
        super().connection_made(transport)
        if len(self.connections) > MOST_CONNECTIONS:
            _turned_away.inc()
            transport.abort()
        else:
            self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state is h11.IDLE:
            self._wait()
        else:
            self._have()

    def connection_lost(self, exc: Exception | None) -> None:
        self._have()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._late is None:
            self._late = self.loop.call_later(HEAD_S, self._too_late)

    def _have(self) -> None:
        if self._late is not None:
            self._late.cancel()
            self._late = None

    def _too_late(self) -> None:
        self._late = None
        if self.conn.their_state is h11.IDLE:
            _turned_away.inc()
            self.transport.close()


class _Labelled:
    """Says in the scope which listener a request came by; callers have no hand in it."""

    def __init__(self, app: ASGIApp, listener: str) -> None:
        self._app = app
        self._listener = listener

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[LISTENER] = self._listener
        await self._app(scope, receive, send)


def _tcp_listener(host: str, port: int) -> socket.socket:
    try:
        family = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0][0]
        return socket.create_server((host, port), family=family, backlog=_BACKLOG)
    except OSError as error:
        why = "another program has it" if error.errno == errno.EADDRINUSE else (error.strerror or "not possible")
        raise ListenError(
            f"HTTP cannot listen on {host} port {port}: {why}. "
            "Set KIVUKO_BIND to an address of this machine and KIVUKO_HTTP_PORT to a free port, or to 0 for any."
        ) from error


def _unix_listener(path: Path) -> tuple[int, socket.socket]:
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    lock = os.open(path.with_name(f"{path.name}.lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        # The kernel lets go of the lock when its holder dies, however it dies: a socket without one is left over.
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with suppress(FileNotFoundError):
            path.unlink()
        # No moment in which others could connect: the mode is right from the start.
        before = os.umask(0o177)
        try:
            listener.bind(socket_name(path))
        finally:
            os.umask(before)
        listener.listen(_BACKLOG)
    except BlockingIOError as error:
        listener.close()
        os.close(lock)
        raise ListenError(
            f"another Kivuko runs on {path.parent}: stop it first, or set KIVUKO_HOME to another folder."
        ) from error
    except OSError as error:
        listener.close()
        os.close(lock)
        raise ListenError(f"the socket {path} cannot be made: {error.strerror or error}.") from error
    return lock, listener


def socket_name(path: Path) -> str:
    """Give a name for a Unix socket that is short enough to bind and to connect to.

    Raises
    ------
    ListenError
        The path is too long, seen from the working directory too.
    """
    names = (str(path.absolute()), os.path.relpath(path))
    short = next((name for name in names if len(os.fsencode(name)) <= _LONGEST_SOCKET_PATH), None)
    if short is None:
        raise ListenError(
            f"the path of the socket is longer than {_LONGEST_SOCKET_PATH} bytes: set KIVUKO_HOME to a shorter path."
        )
    return short
