"""Bringing tables up to date."""

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path
from textwrap import dedent
from uuid import uuid4

import pytest
from sqlalchemy import Column, ForeignKey, Integer, MetaData, String, Table, text

from libs.storage.database import Database
from libs.storage.migration import MigrationError, migrate, pending
from tests.support.postgresql import PostgreSQL
from tests.support.schema import assert_migrated

pytestmark = pytest.mark.contract

FIRST = """
    op.create_table("parent", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(10)))
    op.create_table(
        "child",
        sa.Column("id", sa.Integer, primary_key=True),
        sa.Column("parent", sa.Integer, sa.ForeignKey("parent.id", ondelete="CASCADE"), nullable=False),
    )
"""
SECOND = """
    with op.batch_alter_table("parent") as batch:
        batch.alter_column("name", type_=sa.String(20), existing_type=sa.String(10))
"""


class Package:
    """A service's package with revisions, for a test."""

    def __init__(self, folder: Path) -> None:
        self.name = f"sample_{uuid4().hex}"
        self._versions = folder / self.name / "migrations" / "versions"
        self._versions.mkdir(parents=True)
        (folder / self.name / "__init__.py").write_text("")

    def add(self, number: int, body: str) -> None:
        before = f"{number - 1:04}" if number > 1 else None
        head = f"""
            import sqlalchemy as sa
            from alembic import op

            revision = "{number:04}"
            down_revision = {before!r}


            def upgrade() -> None:
        """
        (self._versions / f"{number:04}_it.py").write_text(dedent(head).rstrip() + "\n" + body)

    def take_back(self, number: int) -> None:
        (self._versions / f"{number:04}_it.py").unlink()


@pytest.fixture
def package(tmp_path: Path) -> Iterator[Package]:
    sys.path.insert(0, str(tmp_path))
    made = Package(tmp_path)
    made.add(1, FIRST)
    yield made
    sys.path.remove(str(tmp_path))


async def test_several_processes_at_once(database_url: str, package: Package) -> None:
    package.add(2, SECOND)
    replicas = [Database(database_url, "sample") for _ in range(4)]
    assert await pending(replicas[0], package.name) == ["0001", "0002"]
    await asyncio.gather(*(migrate(replica, package.name) for replica in replicas))
    assert await pending(replicas[0], package.name) == []
    for replica in replicas:
        await replica.close()


async def test_a_revision_that_fails_leaves_nothing(database: Database, package: Package) -> None:
    package.add(2, "    op.create_table('half', sa.Column('id', sa.Integer))\n    raise LookupError\n")
    with pytest.raises(LookupError):
        await migrate(database, package.name)
    assert await pending(database, package.name) == ["0001", "0002"]
    package.add(2, SECOND)
    await migrate(database, package.name)
    assert await pending(database, package.name) == []


async def test_rebuilding_a_table_keeps_rows_that_refer_to_it(database: Database, package: Package) -> None:
    await migrate(database, package.name)
    async with database.transaction() as tx:
        await tx.execute(text("INSERT INTO parent (id, name) VALUES (1, 'one')"))
        await tx.execute(text("INSERT INTO child (id, parent) VALUES (1, 1)"))
    package.add(2, SECOND)
    await migrate(database, package.name)
    async with database.reading() as session:
        rows = (await session.execute(text("SELECT child.id, name FROM child JOIN parent ON parent.id = parent"))).all()
    assert [tuple(row) for row in rows] == [(1, "one")]


async def test_a_revision_that_breaks_references_is_taken_back(tmp_path: Path, package: Package) -> None:
    database = Database(f"sqlite:///{tmp_path / 'own'}", "sample")
    await migrate(database, package.name)
    async with database.transaction() as tx:
        await tx.execute(text("INSERT INTO parent (id, name) VALUES (1, 'one')"))
        await tx.execute(text("INSERT INTO child (id, parent) VALUES (1, 1)"))
    package.add(2, "    op.execute('DELETE FROM parent')\n")
    with pytest.raises(MigrationError, match="rows of child"):
        await migrate(database, package.name)
    assert await pending(database, package.name) == ["0002"]
    async with database.reading() as session:
        assert (await session.execute(text("SELECT count(*) FROM parent"))).scalar_one() == 1
    await database.close()


async def test_tables_of_a_newer_release_are_left_alone(database: Database, package: Package) -> None:
    package.add(2, SECOND)
    await migrate(database, package.name)
    package.take_back(2)
    for attempt in (migrate, pending):
        with pytest.raises(MigrationError, match="newer release"):
            await attempt(database, package.name)


async def test_a_role_that_may_not_make_its_schema(postgresql: PostgreSQL, package: Package) -> None:
    url = postgresql.database()
    name = url.rpartition("/")[2]
    role = f"role_{uuid4().hex[:8]}"
    postgresql.psql(f"CREATE ROLE {role} LOGIN")
    database = Database(url.replace("postgres@", f"{role}@"), "sample")
    with pytest.raises(MigrationError, match=r"CREATE SCHEMA \"sample\" AUTHORIZATION"):
        await migrate(database, package.name)
    postgresql.psql(f'CREATE SCHEMA "sample" AUTHORIZATION {role}', name)
    await migrate(database, package.name)
    assert await pending(database, package.name) == []
    assert postgresql.psql("SELECT schemaname FROM pg_tables WHERE tablename = 'alembic_version'", name) == "sample"
    await database.close()


def described(name_length: int, *, child: bool = True) -> MetaData:
    metadata = MetaData()
    Table("parent", metadata, Column("id", Integer, primary_key=True), Column("name", String(name_length)))
    if child:
        reference = ForeignKey("parent.id", ondelete="CASCADE")
        Table(
            "child",
            metadata,
            Column("id", Integer, primary_key=True),
            Column("parent", Integer, reference, nullable=False),
        )
    return metadata


async def test_the_comparison_with_the_metadata_finds_differences(database_url: str, package: Package) -> None:
    package.add(2, SECOND)
    await assert_migrated(database_url, "right", described(20), package.name)
    with pytest.raises(AssertionError, match="differ"):
        await assert_migrated(database_url, "length", described(10), package.name)
    with pytest.raises(AssertionError, match="differ"):
        await assert_migrated(database_url, "table", described(20, child=False), package.name)
    package.add(3, "    op.create_index('extra', 'child', ['parent'])\n")
    with pytest.raises(AssertionError, match="differ"):
        await assert_migrated(database_url, "index", described(20), package.name)
