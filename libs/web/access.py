"""Tokens as every service knows them: hashes, roles, scopes; fetched from the service `network` and kept."""

import asyncio
import hashlib
import hmac
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Final

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field, SecretStr, ValidationError

from contracts.access import Role
from libs.clock import Clock
from libs.telemetry import log
from libs.web.principal import Principal

if TYPE_CHECKING:
    import httpx

#: How often the list is fetched anyway: the longest that a revoked token works when the event gets lost.
INTERVAL: Final = timedelta(seconds=15)
#: How long tokens are taken while the list cannot be fetched.
MAX_AGE: Final = timedelta(hours=24)
#: Least time between two fetches for the sake of unknown tokens.
LEAST_PAUSE: Final = timedelta(seconds=1)

_log = log.get("kivuko.access")


class AccessEntry(BaseModel):
    """One token that is neither revoked nor forgotten; the token itself is nowhere."""

    model_config = ConfigDict(frozen=True)

    token_id: str = Field(description="Identifier of the token.")
    token_hash: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the token, in hexadecimal digits.")
    name: str = Field(description="Name that was given to it.")
    role: Role = Field(description="Its role.")
    tenants: tuple[str, ...] | None = Field(None, description="Tenants in its scope; null: all of them.")
    sites: tuple[str, ...] | None = Field(None, description="Sites in its scope; null: all of them.")
    expires_at: AwareDatetime | None = Field(None, description="When it stops being valid, UTC.")


class AccessList(BaseModel):
    """All tokens in force, as `GET /v1/network/access` gives them."""

    model_config = ConfigDict(frozen=True)

    entries: tuple[AccessEntry, ...] = Field(description="The tokens.")


#: Asks the service `network` for the list in force.
FetchAccess = Callable[[], Awaitable[AccessList]]


class AccessUnavailableError(Exception):
    """Tokens cannot be checked: the service `network` did not answer for too long."""


class TokenRefusedError(Exception):
    """The token is not one that is in force. The message says why, without the token."""


def token_hash(token: str) -> str:
    """Hash a token as it is stored: SHA-256, 64 hexadecimal digits. Tokens are random, so no salt is needed."""
    return hashlib.sha256(token.encode()).hexdigest()


class AccessView:
    """The tokens in force, as one process sees them.

    Parameters
    ----------
    fetch
        Asks for the list; raises AccessUnavailableError when it can't.
    clock
        The time in UTC.
    service_token
        The token by which the services know each other; none where they share one process.
    """

    def __init__(self, fetch: FetchAccess, clock: Clock, *, service_token: SecretStr | None = None) -> None:
        self._fetch = fetch
        self._clock = clock
        self._service_hash = None if service_token is None else token_hash(service_token.get_secret_value())
        self._by_hash: dict[str, AccessEntry] = {}
        self._fetched_at: datetime | None = None
        self._asked_at: datetime | None = None
        self._refreshing = asyncio.Lock()
        self._stale = asyncio.Event()

    def changed(self) -> None:
        """Fetch soon: a token was created or revoked."""
        self._stale.set()

    async def run(self) -> None:
        """Keep the list fresh until cancelled."""
        while True:
            self._stale.clear()
            await self.refresh()
            try:
                async with asyncio.timeout(INTERVAL.total_seconds()):
                    await self._stale.wait()
            except TimeoutError:
                continue

    async def refresh(self) -> bool:
        """Fetch the list; tell whether it came. When it does not, the last good one stays in force for a day."""
        async with self._refreshing:
            self._asked_at = self._clock()
            try:
                fetched = await self._fetch()
            except AccessUnavailableError as error:
                _log.warning("tokens not fetched", reason=str(error))
                return False
            self._by_hash = {entry.token_hash: entry for entry in fetched.entries}
            self._fetched_at = self._clock()
            return True

    async def find(self, token: str, address: str) -> Principal:
        """Give the caller who holds a token.

        The token is found by its hash, so the time that it takes says nothing about the tokens that there are.

        Raises
        ------
        TokenRefusedError
            The token is unknown, revoked or expired.
        AccessUnavailableError
            There is no list that is fresh enough to tell.
        """
        digest = token_hash(token)
        if self._service_hash is not None and hmac.compare_digest(digest, self._service_hash):
            return Principal(name="service", role=None, address=address)
        if digest not in self._by_hash and self._may_ask():
            await self.refresh()
        now = self._clock()
        if self._fetched_at is None or now - self._fetched_at > MAX_AGE:
            raise AccessUnavailableError("the service `network` has not told which tokens are in force")
        entry = self._by_hash.get(digest)
        if entry is None:
            raise TokenRefusedError("The token is not known: it is mistyped, or it was revoked.")
        if entry.expires_at is not None and entry.expires_at <= now:
            raise TokenRefusedError("The token has expired.")
        return Principal(
            name=entry.name,
            role=entry.role,
            tenants=None if entry.tenants is None else frozenset(entry.tenants),
            sites=None if entry.sites is None else frozenset(entry.sites),
            address=address,
        )

    def _may_ask(self) -> bool:
        return self._asked_at is None or abs(self._clock() - self._asked_at) >= LEAST_PAUSE


def http_fetch(client: "httpx.AsyncClient", network_url: str, token: SecretStr) -> FetchAccess:
    """Fetch from `GET /v1/network/access` of the service `network`."""
    import httpx  # noqa: PLC0415 - slow, and only needed where `network` is another process

    url = f"{network_url.rstrip('/')}/v1/network/access"

    async def fetch() -> AccessList:
        try:
            response = await client.get(
                url, headers={"authorization": f"Bearer {token.get_secret_value()}"}, timeout=10
            )
        except httpx.HTTPError as error:
            raise AccessUnavailableError(f"{network_url} does not answer ({type(error).__name__})") from error
        if response.status_code != httpx.codes.OK:
            raise AccessUnavailableError(f"{network_url} answered {response.status_code}")
        try:
            return AccessList.model_validate_json(response.content)
        except ValidationError as error:
            raise AccessUnavailableError(
                f"{network_url} gave a list that this release can't read: upgrade this service"
            ) from error

    return fetch
