"""Tokens as every service knows them: hashes, roles, scopes; fetched from the service `network` and kept."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field

from contracts.access import Role


class AccessEntry(BaseModel):
    """One token that is neither revoked nor forgotten; the token itself is nowhere."""

    model_config = ConfigDict(frozen=True)

    token_id: str = Field(description="Identifier of the token.")
    token_hash: str = Field(pattern=r"^[0-9a-f]{64}$", description="SHA-256 of the token, in hexadecimal digits.")
    name: str = Field(description="Name that was given to it.")
    role: Role = Field(description="Its role.")
    tenants: tuple[str, ...] | None = Field(None, description="Tenants in its scope; null: all of them.")
    sites: tuple[str, ...] | None = Field(None, description="Sites in its scope; null: all of them.")
    expires_at: datetime | None = Field(None, description="When it stops being valid, UTC.")


class AccessList(BaseModel):
    """All tokens in force, as `GET /v1/network/access` gives them."""

    model_config = ConfigDict(frozen=True)

    entries: tuple[AccessEntry, ...] = Field(description="The tokens.")
