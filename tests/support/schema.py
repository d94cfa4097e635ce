"""Proof that a service's revisions make exactly the tables that its metadata describes."""

from collections.abc import Mapping, Sequence
from importlib.resources import files
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.environment import EnvironmentContext
from alembic.runtime.migration import MigrationContext, MigrationStep
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, MetaData, inspect, text

from libs.storage.database import Database
from libs.storage.migration import migrate, pending


async def assert_migrated(url: str, service: str, metadata: MetaData, package: str | None = None) -> None:
    """Migrate an empty database, and compare it with the metadata and with tables made from the metadata afresh.

    Parameters
    ----------
    url
        `sqlite:///FOLDER` or `postgresql://...`, without tables of the service.
    service
        Name of the service.
    metadata
        All tables of the service, those of messaging included.
    package
        Where its folder `migrations` is; `services.<service>` if left out.
    """
    package = package or f"services.{service}"
    database = Database(url, service)
    try:
        assert await pending(database, package), f"{package} has no revisions, or they were applied before"
        await migrate(database, package)
        assert await pending(database, package) == []
        async with database.migrating() as connection:
            differences = await connection.run_sync(_differences, metadata)
            assert differences == [], f"revisions of {package} and its metadata differ: {differences}"
            migrated = await connection.run_sync(_described)
            await connection.run_sync(metadata.drop_all)
            await connection.run_sync(metadata.create_all)
            fresh = await connection.run_sync(_described)
        assert migrated == fresh, f"tables made by revisions of {package} and from its metadata differ"
        # Nothing is left to do, and doing it again does nothing.
        await migrate(database, package)
        async with database.reading() as session:
            assert (await session.execute(text("SELECT count(*) FROM alembic_version"))).scalar_one() == 1
    finally:
        await database.close()


def upgrade_to(connection: Connection, service: str, revision: str) -> None:
    """Apply the revisions of a service up to one; the schema is there already."""
    script = ScriptDirectory(str(files(f"services.{service}") / "migrations"))
    steps = [
        MigrationStep.upgrade_from_script(script.revision_map, each)
        for each in reversed(list(script.iterate_revisions(revision, "base")))
    ]

    def those(_heads: Any, _context: Any) -> Any:
        return steps

    with EnvironmentContext(Config(), script, fn=those) as environment:
        schema = service if connection.dialect.name == "postgresql" else None
        environment.configure(
            connection=connection, version_table_schema=schema, transactional_ddl=True, render_as_batch=True
        )
        environment.run_migrations()


def _differences(connection: Connection, metadata: MetaData) -> list[Any]:
    options = {"compare_type": True, "compare_server_default": True}
    return list(compare_metadata(MigrationContext.configure(connection, opts=options), metadata))


def _described(connection: Connection) -> dict[str, Any]:
    """Describe what Alembic does not compare too: keys, uniqueness, checks and indexes with their conditions."""
    inspector = inspect(connection)

    def ordered(items: Sequence[Mapping[str, Any]]) -> list[str]:
        return sorted(_plain(item) for item in items)

    return {
        table: {
            "columns": ordered([{**column, "type": repr(column["type"])} for column in inspector.get_columns(table)]),
            "primary key": inspector.get_pk_constraint(table)["constrained_columns"],
            "foreign keys": ordered(inspector.get_foreign_keys(table)),
            "unique": ordered(inspector.get_unique_constraints(table)),
            "checks": ordered(inspector.get_check_constraints(table)),
            "indexes": ordered(inspector.get_indexes(table)),
        }
        for table in inspector.get_table_names()
        if table != "alembic_version"
    }


def _plain(value: Any) -> str:
    """Give the same text for what means the same; conditions of indexes are objects without an equality."""
    if isinstance(value, Mapping):
        return repr(sorted((str(key), _plain(each)) for key, each in value.items()))
    if isinstance(value, list | tuple):
        return repr([_plain(each) for each in value])
    return str(value)
