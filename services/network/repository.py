"""All SQL of network."""

from datetime import datetime

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from sqlalchemy import func, insert, select, update
from sqlalchemy.exc import IntegrityError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.access import Role
from contracts.definition import Definition, Snapshot
from libs.snapshot import SnapshotUnavailableError
from libs.storage.database import Database
from libs.web.access import AccessEntry, AccessList, AccessUnavailableError
from services.network.models import tokens, versions


class Entry(BaseModel):
    """A version in the history."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    version: int = Field(description="Version of the definition.")
    filename: str = Field(description="Name of the file as it was given.")
    document_hash: str = Field(description="SHA-256 of the document's text.")
    applied_at: datetime = Field(description="When it came into force.")
    applied_by: str = Field(description="Name of the token, or `local`.")
    comment: str | None = Field(None, description="Why, in the words of who applied it.")
    rollback_of: int | None = Field(None, description="The version whose document was applied again.")
    change_count: int = Field(description="Number of differences to the version before.")
    not_in_force: tuple[str, ...] = Field(description="Parts that the release of that time did not carry out.")


class Version(Entry):
    """A version with its document."""

    text: str = Field(description="The document as it was applied.")


class Token(BaseModel):
    """What is known of a token."""

    model_config = ConfigDict(frozen=True, from_attributes=True)

    id: str = Field(description="Identifier.")
    name: str = Field(description="Who or what it is for.")
    role: Role = Field(description="Its role.")
    tenants: tuple[str, ...] | None = Field(None, description="Tenants in its scope; null: all.")
    sites: tuple[str, ...] | None = Field(None, description="Sites in its scope; null: all.")
    created_at: datetime = Field(description="When it was created.")
    created_by: str = Field(description="Who created it.")
    expires_at: datetime | None = Field(None, description="When it stops being valid.")
    revoked_at: datetime | None = Field(None, description="When it was revoked.")
    revoked_by: str | None = Field(None, description="Who revoked it.")


class TakenError(Exception):
    """Another one was first: the number of a version, or the name of a token, is taken."""


#: What the drivers raise while the database is away, or its tables are not made yet.
_AWAY = (SQLAlchemyError, OSError)
_NO_ANSWER = "the database of the service `network` does not answer: check KIVUKO_DATABASE_URL and run `kivuko migrate`"
_ENTRY = [versions.c[name] for name in Entry.model_fields]
_TOKEN = [tokens.c[name] for name in Token.model_fields]


async def latest(tx: AsyncSession) -> Entry | None:
    """Give the version in force."""
    row = (await tx.execute(select(*_ENTRY).order_by(versions.c.version.desc()).limit(1))).first()
    return None if row is None else Entry.model_validate(row)


async def version_text(tx: AsyncSession, version: int) -> Version | None:
    """Give a version with its document."""
    row = (await tx.execute(select(*_ENTRY, versions.c.text).where(versions.c.version == version))).first()
    return None if row is None else Version.model_validate(row)


async def history(tx: AsyncSession, limit: int, before: int | None) -> list[Entry]:
    """List versions, the newest first, only those below `before` if it is given."""
    query = select(*_ENTRY).order_by(versions.c.version.desc()).limit(limit)
    if before is not None:
        query = query.where(versions.c.version < before)
    return [Entry.model_validate(row) for row in await tx.execute(query)]


async def version_of(tx: AsyncSession, document_hash: str) -> int | None:
    """Give the latest version that had this very text; none if no version had."""
    query = select(func.max(versions.c.version)).where(versions.c.document_hash == document_hash)
    found: int | None = await tx.scalar(query)
    return found


async def definition(tx: AsyncSession, version: int) -> Definition | None:
    """Give the definition of a version. Raises ValidationError where this release can't read it."""
    data = await tx.scalar(select(versions.c.definition).where(versions.c.version == version))
    return None if data is None else Definition.model_validate(data)


async def add_version(tx: AsyncSession, entry: Version, definition: Definition) -> None:
    """Add a version. Raises TakenError if another one with its number was added meanwhile."""
    data = definition.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    try:
        row = {**entry.model_dump(), "not_in_force": list(entry.not_in_force), "definition": data}
        await tx.execute(insert(versions).values(**row))
    except IntegrityError as error:
        raise TakenError(f"version {entry.version} is there already") from error


async def list_tokens(tx: AsyncSession) -> list[Token]:
    """List all tokens, revoked ones too, in the order of their creation."""
    return [Token.model_validate(row) for row in await tx.execute(select(*_TOKEN).order_by(tokens.c.created_at))]


async def token(tx: AsyncSession, token_id: str) -> Token | None:
    """Give a token."""
    row = (await tx.execute(select(*_TOKEN).where(tokens.c.id == token_id))).first()
    return None if row is None else Token.model_validate(row)


async def add_token(tx: AsyncSession, added: Token, token_hash: str) -> None:
    """Add a token. Raises TakenError if a token in use has the name."""
    values = added.model_dump() | {"token_hash": token_hash}
    for scope in ("tenants", "sites"):
        values[scope] = None if values[scope] is None else list(values[scope])
    try:
        await tx.execute(insert(tokens).values(**values))
    except IntegrityError as error:
        raise TakenError(f"a token called {added.name} is in use") from error


async def revoke_token(tx: AsyncSession, token_id: str, at: datetime, by: str) -> bool:
    """Revoke a token; tell whether it was in use."""
    query = update(tokens).where(tokens.c.id == token_id, tokens.c.revoked_at.is_(None))
    return bool((await tx.execute(query.values(revoked_at=at, revoked_by=by).returning(tokens.c.id))).first())


async def current_snapshot(database: Database) -> Snapshot | None:
    """Give the definition in force; none before the first apply.

    Raises
    ------
    SnapshotUnavailableError
        The database is away, or an older release applied the definition and this one can't read it.
    """
    query = select(versions.c.version, versions.c.document_hash, versions.c.definition)
    try:
        async with database.reading() as tx:
            row = (await tx.execute(query.order_by(versions.c.version.desc()).limit(1))).first()
    except _AWAY as error:
        raise SnapshotUnavailableError(f"{_NO_ANSWER} ({type(error).__name__})") from error
    if row is None:
        return None
    try:
        return Snapshot(
            version=row.version,
            document_hash=row.document_hash,
            definition=Definition.model_validate(row.definition),
        )
    except ValidationError as error:
        raise SnapshotUnavailableError(
            f"version {row.version} of the network definition was applied by another release and can't be read by this "
            "one: apply the document again with `kivuko apply FILE`, which says what has to change"
        ) from error


async def access_list(database: Database) -> AccessList:
    """Give the tokens in use; whoever checks one looks at its expiry. Raises AccessUnavailableError."""
    try:
        async with database.reading() as tx:
            rows = (await tx.execute(select(tokens).where(tokens.c.revoked_at.is_(None)))).all()
    except _AWAY as error:
        raise AccessUnavailableError(f"{_NO_ANSWER} ({type(error).__name__})") from error
    return AccessList(
        entries=tuple(
            AccessEntry(
                token_id=row.id,
                token_hash=row.token_hash,
                name=row.name,
                role=row.role,
                tenants=row.tenants,
                sites=row.sites,
                expires_at=row.expires_at,
            )
            for row in rows
        )
    )
