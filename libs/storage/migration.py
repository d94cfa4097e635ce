"""Bringing a service's tables up to date with its code.

A service keeps its revisions in `services/NAME/migrations/versions/NNNN_what.py`, plain Alembic files with `revision`,
`down_revision` and `upgrade`. They spell every column out and never import the service's models: a revision that has
been released must do the same for ever. There is no env.py and no alembic.ini.
"""

from importlib.resources import files
from typing import ClassVar

from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, MigrationStep
from alembic.script import Script, ScriptDirectory
from alembic.script.revision import RevisionError
from alembic.util import CommandError
from sqlalchemy import Connection, text
from sqlalchemy.exc import ProgrammingError
from sqlalchemy.ext.asyncio import AsyncConnection

from libs.storage.database import Database
from libs.telemetry import log

_LOG = log.get(__name__)


class MigrationError(Exception):
    """The tables can't be brought up to date; the text says what to do."""

    safe_to_log: ClassVar[bool] = True


async def migrate(database: Database, package: str) -> None:
    """Apply all revisions that are not applied yet, in one transaction.

    Several processes may call it at the same time: one works, the others wait for it.

    Parameters
    ----------
    database
        Whose tables.
    package
        The service's package, such as `services.ingest`.

    Raises
    ------
    MigrationError
        The schema is missing and may not be made, or the database is of a newer release.
    """
    script = _script(package)
    async with database.migrating() as connection:
        if database.dialect == "postgresql":
            await _require_schema(connection, database.service)
        await connection.run_sync(_upgrade, script, database)
        if database.dialect == "sqlite":
            broken = (await connection.execute(text("PRAGMA foreign_key_check"))).first()
            if broken is not None:
                raise MigrationError(
                    f"a revision of {package} would leave rows of {broken[0]} without the row that they refer to: "
                    "nothing was changed; report it with the versions of both releases"
                )


async def pending(database: Database, package: str) -> list[str]:
    """Give the revisions that are not applied yet, the next one first.

    Raises
    ------
    MigrationError
        The database is of a newer release.
    """
    script = _script(package)
    async with database.reading() as session:
        connection = await session.connection()
        return [each.revision for each in await connection.run_sync(_missing, script, database)]


def _script(package: str) -> ScriptDirectory:
    return ScriptDirectory(str(files(package) / "migrations"))


def _schema(database: Database) -> str | None:
    return database.service if database.dialect == "postgresql" else None


async def _require_schema(connection: AsyncConnection, schema: str) -> None:
    # Looked up first, as CREATE SCHEMA IF NOT EXISTS needs the right to create even where there is nothing to do.
    if await connection.scalar(text("SELECT to_regnamespace(quote_ident(:schema))"), {"schema": schema}) is not None:
        return
    try:
        await connection.execute(text(f'CREATE SCHEMA "{schema}"'))
    except ProgrammingError as error:
        raise MigrationError(
            f"the schema {schema} is missing and this role may not make it: as an administrator of the database, run "
            f'CREATE SCHEMA "{schema}" AUTHORIZATION the role in KIVUKO_DATABASE_URL'
        ) from error


def _missing(connection: Connection, script: ScriptDirectory, database: Database) -> list[Script]:
    """Find the revisions that are not applied yet, the next one first."""
    context = MigrationContext.configure(connection, opts={"version_table_schema": _schema(database)})
    try:
        newest_first = list(script.iterate_revisions("heads", context.get_current_heads() or "base"))
    except (CommandError, RevisionError) as error:
        raise MigrationError(
            f"the tables of {database.service} were made by a newer release than this one: "
            "run that release again, or restore the backup that was made before it"
        ) from error
    return newest_first[::-1]


def _upgrade(connection: Connection, script: ScriptDirectory, database: Database) -> None:
    missing = _missing(connection, script, database)
    steps = [MigrationStep.upgrade_from_script(script.revision_map, each) for each in missing]
    with EnvironmentContext(Config(), script, fn=lambda _heads, _context: steps) as environment:
        environment.configure(
            connection=connection,
            version_table_schema=_schema(database),
            # SQLite's DDL is part of the transaction here, as the driver is kept from committing by itself.
            transactional_ddl=True,
            render_as_batch=True,
        )
        environment.run_migrations()
    for each in missing:
        _LOG.info("revision applied", service=database.service, revision=each.revision)
