"""The network definition in force, as one process sees it: fetched, kept, worked on with when the source is away."""

import asyncio
import os
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pydantic import SecretStr, ValidationError

from contracts.definition import Snapshot
from libs.telemetry import log

if TYPE_CHECKING:
    import httpx

#: Asks the service `network` for the snapshot in force; none before the first apply.
Fetch = Callable[[], Awaitable[Snapshot | None]]
Listener = Callable[[Snapshot], None]

_log = log.get("kivuko.snapshot")


class SnapshotUnavailableError(Exception):
    """The service `network` could not be asked; the last good snapshot stays in force."""


class NetworkView:
    """The snapshot in force. A lower version never replaces a higher one.

    Parameters
    ----------
    fetch
        Asks for the snapshot; raises SnapshotUnavailableError when it can't.
    keep
        File in which the last good snapshot outlives the process.
    """

    def __init__(self, fetch: Fetch, keep: Path) -> None:
        self._fetch = fetch
        self._keep: Final = keep
        self._listeners: list[Listener] = []
        self._refreshing = asyncio.Lock()
        self.current: Snapshot | None = self._kept()

    def on_change(self, listener: Listener) -> None:
        """Call the listener with each new snapshot from now on."""
        self._listeners.append(listener)

    async def refresh(self) -> bool:
        """Fetch the snapshot; tell whether a newer one came. An unreachable source is logged and changes nothing."""
        async with self._refreshing:
            try:
                fetched = await self._fetch()
            except SnapshotUnavailableError as error:
                _log.warning("network definition not fetched", reason=str(error), version=self._version)
                return False
            if fetched is None or fetched.version <= self._version:
                self._compare(fetched)
                return False
            await asyncio.to_thread(self._write, fetched)
            self.current = fetched
        _log.info("network definition in force", version=fetched.version)
        for listener in self._listeners:
            listener(fetched)
        return True

    def _compare(self, fetched: Snapshot | None) -> None:
        """Say so if the source gives what it can't have come to: then what people apply there has no effect here."""
        current = self.current
        same = fetched is not None and current is not None and fetched.version == current.version
        if current is None or (same and fetched is not None and fetched.document_hash == current.document_hash):
            return
        _log.error(
            "network definition in force here is not the one that the service network has: was its database restored "
            "or made anew?",
            version=current.version,
            previous=0 if fetched is None else fetched.version,
            advice="apply the definition until its version is higher, or stop this process and remove "
            "network-snapshot.json from its KIVUKO_HOME",
        )

    @property
    def _version(self) -> int:
        return 0 if self.current is None else self.current.version

    def _kept(self) -> Snapshot | None:
        try:
            return Snapshot.model_validate_json(self._keep.read_bytes())
        except FileNotFoundError:
            return None
        except ValidationError as error:
            _log.warning(
                "kept network definition not readable, waiting for a new one", reason=f"{error.error_count()} errors"
            )
            return None

    def _write(self, snapshot: Snapshot) -> None:
        partial = self._keep.with_suffix(".part")
        partial.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        descriptor = os.open(partial, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        with os.fdopen(descriptor, "wb") as file:
            file.write(snapshot.model_dump_json(by_alias=True).encode())
            file.flush()
            os.fsync(file.fileno())
        partial.replace(self._keep)


def http_fetch(client: "httpx.AsyncClient", network_url: str, token: SecretStr) -> Fetch:
    """Fetch from `GET /v1/network/snapshot` of the service `network`."""
    import httpx  # noqa: PLC0415 - slow, and only needed where `network` is another process

    url = f"{network_url.rstrip('/')}/v1/network/snapshot"

    async def fetch() -> Snapshot | None:
        try:
            response = await client.get(
                url, headers={"authorization": f"Bearer {token.get_secret_value()}"}, timeout=10
            )
        except httpx.HTTPError as error:
            raise SnapshotUnavailableError(f"{network_url} does not answer ({type(error).__name__})") from error
        if response.status_code == httpx.codes.NOT_FOUND:
            return None
        if response.status_code != httpx.codes.OK:
            raise SnapshotUnavailableError(f"{network_url} answered {response.status_code}")
        try:
            return Snapshot.model_validate_json(response.content)
        except ValidationError as error:
            raise SnapshotUnavailableError(
                f"{network_url} gave a definition that this release can't read: upgrade this service"
            ) from error

    return fetch
