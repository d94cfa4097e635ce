"""Runs services in one process: migrations, broker, relays, loops, HTTP, and an orderly end."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import replace

from aiormq.exceptions import AMQPError
from prometheus_client import Counter

from contracts.access import AccessUsed, TokenChanged
from contracts.envelope import Event
from contracts.network import NetworkApplied
from libs.messaging import topology
from libs.messaging.consume import consume_replica
from libs.messaging.deadletter import DeadLetters, take_dead_letters
from libs.messaging.listen import DATABASE_AWAY
from libs.messaging.outbox import Outbox
from libs.messaging.relay import Relay
from libs.service import Platform, Service
from libs.storage.migration import migrate, pending
from libs.telemetry import log
from libs.web.access import AccessView
from libs.web.app import make_app
from libs.web.dead_letters import dead_letter_router
from libs.web.recording import Record
from libs.web.server import WebServer

#: Seconds between two attempts of something that the process can't do without.
_PAUSES = (0.5, 1, 2, 5, 10)
#: Seconds after which the definition is fetched anyway, in case the event got lost.
_REFRESH = 15

#: Seconds in which a connection to the broker that was just lost may come back.
_PING_S = 1

#: A loop that ran for so many seconds had not failed to start: the pauses begin anew.
_SETTLED = 60

#: What is away for a while, and will come back: a warning, not an alarm.
_AWAY = (*DATABASE_AWAY, AMQPError, TimeoutError)
_FAILURES = Counter("kivuko_loop_failures", "Failures of loops that must run for ever.", ["loop"])

Loop = Callable[[], Awaitable[None]]

_log = log.get("kivuko.host")


class NotReadyError(Exception):
    """A check of readiness failed; the message says what to do."""


class NotRecordedError(Exception):
    """A service without tables of its own cannot record the use of its routes."""


class Host:
    """Runs services until told to stop.

    Parameters
    ----------
    services
        What to run, in the order of their start; they stop in the reverse order.
    platform
        What they share.
    access
        The tokens in force.
    version
        Version of this release.
    name
        Service whose name the process bears in replica queues: the only one, or `network` where all are in one.
    own_storage
        Whether this process alone owns broker and databases, as in the embedded profile: then they are migrated and
        ready before anything starts. Otherwise they may be away, and readiness says so.
    prepare
        Run once, after the migrations and before any service starts; what it raises ends the start.
    """

    def __init__(
        self,
        services: Sequence[Service],
        platform: Platform,
        access: AccessView,
        *,
        version: str,
        name: str,
        own_storage: bool,
        prepare: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self._services = services
        self._platform = platform
        self._access = access
        self._version = version
        self._name = name
        self._own_storage = own_storage
        self._prepare = prepare
        self._broker_ready = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()

    async def run(self, announce: Callable[[Mapping[str, str]], None], stop: asyncio.Event) -> None:
        """Start everything, announce the addresses, and end in order when `stop` is set.

        What raises while it starts ends what had started before it, in order, and comes out.
        """
        async with AsyncExitStack() as stack:
            announce(await self._start(stack))
            await stop.wait()
            _log.info("stopping")

    async def _start(self, stack: AsyncExitStack) -> dict[str, str]:
        """Start everything; what has to end goes on the stack as soon as it stands. Gives the addresses."""
        # The stack ends from its top: nothing loses what it stands on before it has ended itself.
        stack.push_async_callback(asyncio.to_thread, self._platform.objects.close)
        for service in self._services:
            if service.database is not None:
                stack.push_async_callback(service.database.close)
        stack.push_async_callback(self._platform.broker.stop)
        stack.push_async_callback(self._end_loops)
        if self._own_storage:
            # The bus is locked first, so that a second process changes nothing.
            await self._platform.broker.connect()
            await self._migrate()
        if self._prepare is not None:
            await self._prepare()
        self._register()
        web = self._web()
        await self._platform.network.refresh()
        for service in self._services:
            if service.start is not None:
                await service.start()
            if service.stop is not None:
                stack.push_async_callback(service.stop)
        if self._own_storage:
            await self._consume()
        else:
            self._supervise("broker", self._consume)
        self._supervise_loops()
        await self._access.refresh()
        await web.start()
        stack.push_async_callback(web.stop)
        return self._addresses(web)

    def _supervise_loops(self) -> None:
        self._supervise("network definition", self._follow_network)
        self._supervise("tokens", self._access.run)
        for service in self._services:
            for number, loop in enumerate(service.loops):
                self._supervise(f"{service.name} {number}", loop)

    async def _migrate(self) -> None:
        for service in self._services:
            if service.database is not None:
                await migrate(service.database, f"services.{service.name}")

    def _register(self) -> None:
        platform = self._platform

        @consume_replica(platform.broker, self._name, NetworkApplied, instance=platform.settings.instance)
        async def on_network_applied(_event: Event[NetworkApplied]) -> None:
            await platform.network.refresh()

        @consume_replica(platform.broker, self._name, TokenChanged, instance=platform.settings.instance)
        async def on_token_changed(_event: Event[TokenChanged]) -> None:
            self._access.changed()

        for service in self._services:
            if service.database is not None and service.tables is not None:
                take_dead_letters(platform.broker, service.name, service.database, service.tables, platform.clock)
                relay = Relay(service.database, platform.broker, service.tables, platform.clock)
                self._supervise(f"{service.name} relay", self._after_broker(relay.run))

    def _web(self) -> WebServer:
        settings = self._platform.settings
        routers = {
            service.name: dead_letter_router(DeadLetters(service.database, service.tables, self._platform.clock))
            for service in self._services
            if service.database is not None and service.tables is not None
        }
        services = [self._with_own_checks(service) for service in self._services]
        app = make_app(
            services,
            self._access,
            self._recorder(),
            self._platform.clock,
            version=self._version,
            dead_letters=routers,
        )
        return WebServer(app, host=settings.bind, port=settings.http_port, socket_path=settings.socket_path)

    def _with_own_checks(self, service: Service) -> Service:
        checks = dict(service.checks)
        checks["broker"] = self._check_broker
        if service.database is not None and not self._own_storage:
            checks["migrations"] = _check_migrations(service)
        return replace(service, checks=checks)

    async def _check_broker(self) -> None:
        if not self._broker_ready.is_set() or not await self._platform.broker.ping(_PING_S):
            raise NotReadyError("the broker is not connected: check KIVUKO_BROKER_URL and that it runs")

    def _recorder(self) -> Record:
        outboxes = {
            service.name: (
                service.database,
                Outbox(service.name, self._platform.settings.region, self._platform.clock, service.tables),
            )
            for service in self._services
            if service.database is not None and service.tables is not None
        }

        async def record(service: str, use: AccessUsed, tenant: str) -> None:
            if service not in outboxes:
                raise NotRecordedError(f"{service} keeps no tables")
            database, outbox = outboxes[service]
            async with database.transaction() as tx:
                await outbox.emit(tx, use, subject=use.target or use.route, tenant=tenant)

        return record

    async def _consume(self) -> None:
        """Connect, declare the table of topics, consume. The client reconnects by itself from then on."""
        broker = self._platform.broker
        await broker.connect()
        await topology.declare(broker)
        await broker.start()
        self._broker_ready.set()
        _log.info("broker ready")

    def _after_broker(self, loop: Loop) -> Loop:
        async def run() -> None:
            await self._broker_ready.wait()
            await loop()

        return run

    async def _follow_network(self) -> None:
        while True:
            await asyncio.sleep(_REFRESH)
            await self._platform.network.refresh()

    def _supervise(self, name: str, loop: Loop) -> asyncio.Task[None]:
        task = asyncio.create_task(_again_and_again(name, loop), name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    def _addresses(self, web: WebServer) -> dict[str, str]:
        found: dict[str, str] = {}
        for service in self._services:
            if service.addresses is not None:
                found |= service.addresses()
        return found | {"http": web.address, "socket": str(self._platform.settings.socket_path)}

    async def _end_loops(self) -> None:
        loops = list(self._tasks)
        for task in loops:
            task.cancel()
        await asyncio.gather(*loops, return_exceptions=True)


def _check_migrations(service: Service) -> Callable[[], Awaitable[None]]:
    async def check() -> None:
        if service.database is not None and (missing := await pending(service.database, f"services.{service.name}")):
            raise NotReadyError(f"its tables lack {len(missing)} migrations: run `kivuko migrate`")

    return check


async def _again_and_again(name: str, loop: Loop) -> None:
    """Run a loop to its end; start it again with growing pauses when it fails, and say so each time."""
    failures = 0
    clock = asyncio.get_running_loop().time
    while True:
        started = clock()
        try:
            await loop()
        except Exception as error:  # noqa: BLE001 - whatever it is, the other loops must go on, and a person must hear it
            failures = 1 if clock() - started > _SETTLED else failures + 1
            pause = _PAUSES[min(failures, len(_PAUSES)) - 1]
            log_failure = _log.warning if isinstance(error, _AWAY) else _log.error
            log_failure("loop failed", loop=name, delay=pause, exc_info=error)
            _FAILURES.labels(name).inc()
            await asyncio.sleep(pause)
        else:
            return
