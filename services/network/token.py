"""Tokens of people and programs: made, listed, revoked. A token is shown once and kept as a hash."""

import base64
from collections.abc import Callable
from datetime import timedelta
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints

from contracts.access import Role, TokenChanged
from contracts.fact import Slug
from libs.clock import Clock
from libs.storage.database import Database
from libs.web.access import token_hash
from services.network import repository
from services.network.register import NETWORK_TENANT, Emitter
from services.network.repository import Token

#: Gives that many random bytes: `secrets.token_bytes`.
Randomness = Callable[[int], bytes]

PREFIX: Final = "kvk_"
_RANDOM_BYTES: Final = 32
#: Callers without a token have these names in the audit log.
RESERVED: Final = frozenset(("local", "service"))

Scope = Annotated[tuple[Slug, ...], Field(min_length=1)]


class Order(BaseModel):
    """What a new token is to be."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9 ._@-]{0,62}$")] = Field(
        description="Who or what it is for; the audit log shows it."
    )
    role: Role = Field(description="Its role.")
    tenants: Scope | None = Field(None, description="Tenants that it may see; all, if left out.")
    sites: Scope | None = Field(None, description="Sites that it may see; all, if left out.")
    days: Annotated[int, Field(ge=1, le=3660)] | None = Field(
        None, description="Days until it expires; never, if left out."
    )


class Created(Token):
    """A new token: the only answer that ever holds it."""

    token: str = Field(description="The token. Copy it now: it is not kept.")


class ReservedNameError(Exception):
    """The name stands for callers without a token."""


class NoSuchTokenError(Exception):
    """There is no token in use with this identifier."""


class TokenRegister:
    """The tokens.

    Parameters
    ----------
    database
        Of the service `network`.
    outbox
        Takes the event in the same transaction.
    clock
        The time in UTC.
    randomness
        Source of random bytes that nobody can guess.
    """

    def __init__(self, database: Database, outbox: Emitter, clock: Clock, randomness: Randomness) -> None:
        self._database = database
        self._outbox = outbox
        self._clock = clock
        self._randomness = randomness

    async def create(self, order: Order, *, actor: str) -> Created:
        """Make a token of 256 random bits. Raises ReservedNameError and TakenError for a name that is not free."""
        if order.name in RESERVED:
            raise ReservedNameError(order.name)
        now = self._clock()
        known = Token(
            id=self._randomness(8).hex(),
            name=order.name,
            role=order.role,
            tenants=order.tenants,
            sites=order.sites,
            created_at=now,
            created_by=actor,
            expires_at=None if order.days is None else now + timedelta(days=order.days),
        )
        secret = PREFIX + base64.urlsafe_b64encode(self._randomness(_RANDOM_BYTES)).decode().rstrip("=")
        async with self._database.transaction() as tx:
            await repository.add_token(tx, known, token_hash(secret))
            event = TokenChanged(token_id=known.id, name=known.name, role=known.role, change="created", actor=actor)
            await self._outbox.emit(tx, event, subject=f"token/{known.id}", tenant=NETWORK_TENANT)
        return Created(**known.model_dump(), token=secret)

    async def revoke(self, token_id: str, *, actor: str) -> Token:
        """Revoke a token for ever. Raises NoSuchTokenError, also for one that is revoked already."""
        async with self._database.transaction() as tx:
            if not await repository.revoke_token(tx, token_id, self._clock(), actor):
                raise NoSuchTokenError(token_id)
            known = await repository.token(tx, token_id)
            if known is None:
                raise NoSuchTokenError(token_id)
            event = TokenChanged(token_id=known.id, name=known.name, role=known.role, change="revoked", actor=actor)
            await self._outbox.emit(tx, event, subject=f"token/{known.id}", tenant=NETWORK_TENANT)
        return known
