"""What runs in a process: every service of the embedded profile, or one of a cluster."""

import importlib
import importlib.metadata
import importlib.util
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar, cast

from sqlalchemy.exc import ArgumentError

from contracts.topics import SERVICES
from libs.clock import utc_now
from libs.host import Host
from libs.messaging.broker import make_broker
from libs.service import Platform, Service
from libs.settings import Settings
from libs.snapshot import Fetch, NetworkView, http_fetch
from libs.storage.database import Database
from libs.storage.objects import open_store
from libs.web.access import AccessView
from libs.web.access import http_fetch as http_fetch_access

if TYPE_CHECKING:
    import httpx

T = TypeVar("T")

#: Receivers of events start before their producers; ingest opens its port last.
_ORDER = ("network", "audit", "egress", "rules", "worklist", "sla", "console", "ingest")


class MisconfiguredError(Exception):
    """The environment does not fit; the message says what to set."""


def version() -> str:
    """Give the version of this release."""
    return importlib.metadata.version("kivuko")


def embedded(settings: Settings, config: Path | None) -> Host:
    """Compose all services for one process, which owns its broker and its tables.

    Parameters
    ----------
    settings
        The environment.
    config
        Network definition to put in force at the start, unless its text was in force before; refused, it raises
        DefinitionError and nothing starts.
    """
    from services.network.app import register  # noqa: PLC0415 - not in every image
    from services.network.repository import access_list, current_snapshot  # noqa: PLC0415 - not in every image

    platform = _platform(settings, lambda database: lambda: current_snapshot(database))
    database = platform.database("network")
    access = AccessView(lambda: access_list(database), utc_now)
    services = [_build(name, platform) for name in _ORDER]

    async def apply() -> None:
        if config is not None:
            text = _definition_text(config)
            await register(platform).apply_at_start(text, filename=str(config))

    return Host(services, platform, access, version=version(), name="network", own_storage=True, prepare=apply)


def single(service: str, settings: Settings, http: "httpx.AsyncClient") -> Host:
    """Compose one service of a cluster. Raises MisconfiguredError."""
    if service == "network":
        return _network(settings)
    url, token = settings.network_url, settings.service_token
    if url is None or token is None:
        raise MisconfiguredError(
            "KIVUKO_NETWORK_URL and KIVUKO_SERVICE_TOKEN are needed: where the service `network` answers, and the "
            "secret that all services share."
        )
    platform = _platform(settings, lambda _: http_fetch(http, url, token))
    access = AccessView(http_fetch_access(http, url, token), utc_now, service_token=token)
    return Host([_build(service, platform)], platform, access, version=version(), name=service, own_storage=False)


def _network(settings: Settings) -> Host:
    from services.network.repository import access_list, current_snapshot  # noqa: PLC0415 - not in every image

    platform = _platform(settings, lambda database: lambda: current_snapshot(database))
    database = platform.database("network")
    access = AccessView(lambda: access_list(database), utc_now, service_token=settings.service_token)
    return Host([_build("network", platform)], platform, access, version=version(), name="network", own_storage=False)


def _platform(settings: Settings, fetch: Callable[[Database], Fetch]) -> Platform:
    @cache
    def database(service: str) -> Database:
        return _opened("KIVUKO_DATABASE_URL", lambda: Database(settings.database, service))

    return Platform(
        settings=settings,
        broker=_opened("KIVUKO_BROKER_URL", lambda: make_broker(settings.broker, instance=settings.instance)),
        objects=_opened("KIVUKO_OBJECTS_URL", lambda: open_store(settings.objects)),
        network=NetworkView(fetch(database("network")), settings.home / "network-snapshot.json"),
        clock=utc_now,
        database=database,
    )


def _opened(variable: str, make: Callable[[], T]) -> T:
    try:
        return make()
    except ValueError as error:
        raise MisconfiguredError(f"{variable} does not fit: {error}") from error
    except ArgumentError as error:
        # The library's sentence may repeat the address, with its password.
        raise MisconfiguredError(f"{variable} is not an address: see `kivuko up --help` and the README") from error


def _build(name: str, platform: Platform) -> Service:
    if importlib.util.find_spec(f"services.{name}") is None:
        raise MisconfiguredError(f"the service {name} is not part of this image")
    build = cast("Callable[[Platform], Service]", importlib.import_module(f"services.{name}.app").build)
    return build(platform)


def migrated_services() -> list[str]:
    """List the services of this image that have tables."""
    # The service first: asking for what is inside a package that is not there is an error, not an answer.
    return [
        name
        for name in SERVICES
        if importlib.util.find_spec(f"services.{name}") is not None
        and importlib.util.find_spec(f"services.{name}.migrations") is not None
    ]


def _definition_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise MisconfiguredError(f"{path}: {error.strerror}. Name the network definition to apply.") from error
    except UnicodeDecodeError as error:
        raise MisconfiguredError(f"{path} is not text in UTF-8. Name the network definition to apply.") from error
