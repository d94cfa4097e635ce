"""What a service is to the process that runs it, and what the process gives it."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field

from fastapi import APIRouter
from faststream.rabbit import RabbitBroker

from libs.clock import Clock
from libs.messaging.tables import MessagingTables
from libs.settings import Settings
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.storage.objects import ObjectStore


@dataclass(frozen=True)
class Platform:
    """What a process gives its services.

    Attributes
    ----------
    settings
        What the process was told from outside.
    broker
        Not started yet: services register their subscribers on it.
    objects
        The object store.
    network
        The network definition in force.
    clock
        The time in UTC.
    database
        Opens the database of a service by the service's name.
    """

    settings: Settings
    broker: RabbitBroker
    objects: ObjectStore
    network: NetworkView
    clock: Clock
    database: Callable[[str], Database]


@dataclass(frozen=True)
class Service:
    """What a service gives its process.

    Attributes
    ----------
    name
        Name of the service, as in `contracts.topics.SERVICES`.
    database
        Migrated before the start, from `services.<name>.migrations`.
    tables
        Messaging tables in that database: a relay runs, and the service's dead letters are taken.
    router
        Mounted at `/v1/<name>`.
    start, stop
        Called after the broker is ready, and before it closes.
    loops
        Run until the process stops; started again with backoff and an alarm when they fail.
    checks
        Readiness by name; each raises with a sentence that says what to do.
    addresses
        What the service listens on, for the `ready` line: `{"dicom": "127.0.0.1:11112"}`.
    """

    name: str
    database: Database | None = None
    tables: MessagingTables | None = None
    router: APIRouter | None = None
    start: Callable[[], Awaitable[None]] | None = None
    stop: Callable[[], Awaitable[None]] | None = None
    loops: Sequence[Callable[[], Awaitable[None]]] = ()
    checks: Mapping[str, Callable[[], Awaitable[None]]] = field(default_factory=dict)
    addresses: Callable[[], Mapping[str, str]] | None = None
