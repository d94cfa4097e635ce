"""Tables of a service for a test: the revisions run once in a process, and each further SQLite database is a copy."""

from pathlib import Path
from tempfile import TemporaryDirectory

from libs.storage import migration
from libs.storage.database import Database

_TABLES: dict[str, bytes] = {}


async def migrate(database: Database, package: str) -> None:
    """Make the tables of a service in an empty database, as `libs.storage.migration.migrate` does."""
    if database.dialect != "sqlite" or (path := _path(database)).exists():
        await migration.migrate(database, package)
        return
    if package not in _TABLES:
        with TemporaryDirectory() as folder:
            first = Database(f"sqlite:///{folder}", database.service)
            await migration.migrate(first, package)
            await first.close()
            _TABLES[package] = _path(first).read_bytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(_TABLES[package])


def _path(database: Database) -> Path:
    return Path(str(database.engine.url.database))
