"""Records can be appended and nothing else; gaps are kept right; on both databases."""

import json
from datetime import UTC, datetime, timedelta
from functools import reduce
from pathlib import Path
from random import Random
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from contracts.envelope import Event
from contracts.topics import BY_TYPE
from libs.messaging.consume import parse_any
from libs.storage.database import Database
from libs.web.principal import LOCAL, Principal
from services.audit import repository
from services.audit.gap import Arrivals
from services.audit.handlers import recorder
from services.audit.models import metadata
from services.audit.repository import Filter, Gap
from tests.integration.audit.conftest import SettableClock
from tests.support.schema import assert_migrated

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).parents[3] / "contracts" / "examples"
COMPLETED = "study.completed.v1/typical.json"
STORED = "instances.stored.v1/typical.json"


def example(name: str, **changes: Any) -> tuple[Event[Any], bytes]:
    content = json.loads((EXAMPLES / name).read_text()) | changes
    raw = json.dumps(content, indent=3).encode()
    return parse_any(raw), raw


async def record(database: Database, clock: SettableClock, name: str, **changes: Any) -> None:
    event, raw = example(name, **changes)
    async with database.transaction() as tx:
        await recorder(clock)(event, raw, tx)


async def page(database: Database, caller: Principal = LOCAL, **wanted: Any) -> list[repository.Record]:
    async with database.reading() as tx:
        return await repository.page(tx, Filter(**wanted), caller, None, 100)


async def gaps(database: Database, clock: SettableClock) -> list[Gap]:
    async with database.reading() as tx:
        return await repository.open_gaps(tx, clock())


async def test_revisions_make_the_tables_of_the_metadata(database_url: str) -> None:
    await assert_migrated(database_url, "audit", metadata)


COLUMNS = "source, event_id, sequence, type, time, recorded_at, tenant, subject, sha256, body"
COPY = f"INTO records ({COLUMNS}) SELECT {COLUMNS} FROM records WHERE true"  # noqa: S608 -- constants of this test


@pytest.mark.parametrize(
    "statement",
    [
        "UPDATE records SET tenant = 'other'",
        "UPDATE records SET body = body",
        "DELETE FROM records",
        "DELETE FROM records WHERE seq = 1",
        f"INSERT {COPY} ON CONFLICT (source, event_id) DO UPDATE SET tenant = 'other'",
    ],
)
async def test_a_record_is_never_changed_or_removed(database: Database, clock: SettableClock, statement: str) -> None:
    await record(database, clock, COMPLETED)
    before = await page(database)
    with pytest.raises(DBAPIError, match="records can only be appended"):
        async with database.transaction() as tx:
            await tx.execute(text(statement))
    assert await page(database) == before


async def test_an_event_cannot_be_recorded_twice_by_any_statement(database: Database, clock: SettableClock) -> None:
    await record(database, clock, COMPLETED)
    before = await page(database)
    with pytest.raises(DBAPIError):
        async with database.transaction() as tx:
            await tx.execute(text(f"INSERT {COPY}"))
    assert await page(database) == before


@pytest.mark.parametrize("database_url", ["sqlite"], indirect=True)
@pytest.mark.parametrize("statement", [f"INSERT OR REPLACE {COPY}", f"REPLACE {COPY}"])
async def test_sqlite_cannot_replace_a_record(database: Database, clock: SettableClock, statement: str) -> None:
    await record(database, clock, COMPLETED)
    before = await page(database)
    with pytest.raises(DBAPIError, match="records can only be appended"):
        async with database.transaction() as tx:
            await tx.execute(text(statement))
    assert await page(database) == before


@pytest.mark.parametrize("database_url", ["postgresql"], indirect=True)
async def test_postgresql_cannot_empty_the_table(database: Database, clock: SettableClock) -> None:
    await record(database, clock, COMPLETED)
    with pytest.raises(DBAPIError, match="records can only be appended"):
        async with database.transaction() as tx:
            await tx.execute(text("TRUNCATE records"))
    assert len(await page(database)) == 1


async def test_the_bytes_are_kept_as_they_came(database: Database, clock: SettableClock) -> None:
    event, raw = example(STORED)
    async with database.transaction() as tx:
        await recorder(clock)(event, raw, tx)
    [kept] = await page(database)
    assert kept.body == raw
    assert (kept.source, kept.event_id, kept.sequence) == (event.source, event.id, event.sequence)
    assert (kept.time, kept.recorded_at) == (event.time, clock())
    assert kept.study_instance_uid == event.data.study_instance_uid


async def test_a_repeated_event_is_one_record(database: Database, clock: SettableClock) -> None:
    for _ in range(3):
        await record(database, clock, COMPLETED, sequence=1)
    assert len(await page(database)) == 1
    assert await gaps(database, clock) == []


async def test_an_event_of_a_newer_release_is_recorded_with_its_study(database: Database, clock: SettableClock) -> None:
    unknown = "kivuko.study.archived.v1"
    assert unknown not in BY_TYPE
    await record(database, clock, COMPLETED, type=unknown, data={"study_instance_uid": "1.2.3"})
    [kept] = await page(database)
    assert (kept.type, kept.study_instance_uid) == (unknown, "1.2.3")


async def test_gaps_open_narrow_keep_their_age_and_close(database: Database, clock: SettableClock) -> None:
    source = "/north/ingest"
    start = clock()

    async def arrive(sequence: int) -> None:
        await record(database, clock, COMPLETED, source=source, sequence=sequence, id=f"event-{sequence}")

    await arrive(6)
    assert await gaps(database, clock) == [Gap(source, 1, 5, start)]
    clock.move(timedelta(minutes=1))
    await arrive(3)
    assert await gaps(database, clock) == [Gap(source, 1, 2, start), Gap(source, 4, 5, start)]
    await arrive(9)
    assert await gaps(database, clock) == [
        Gap(source, 1, 2, start),
        Gap(source, 4, 5, start),
        Gap(source, 7, 8, clock()),
    ]
    async with database.reading() as tx:
        assert await repository.count_missing(tx, clock()) == {source: 6}
        assert await repository.count_missing(tx, start) == {source: 4}
    for sequence in (8, 1, 5, 2, 7, 4):
        await arrive(sequence)
    assert await gaps(database, clock) == []


async def test_producers_are_counted_apart(database: Database, clock: SettableClock) -> None:
    for source in ("/north/ingest", "/south/ingest"):
        for sequence in (1, 2):
            await record(database, clock, COMPLETED, source=source, sequence=sequence, id=f"event-{sequence}")
    assert await gaps(database, clock) == []
    assert len(await page(database)) == 4


async def test_scope_and_filters(database: Database, clock: SettableClock) -> None:
    rows = [("north", "a"), ("north", "b"), ("south", "a"), ("south", None)]
    for number, (tenant, site) in enumerate(rows, start=1):
        await record(
            database,
            clock,
            COMPLETED,
            tenant=tenant,
            site=site,
            sequence=number,
            id=f"event-{number}",
            time=f"2026-11-20T09:3{number}:00Z",
        )

    async def seen(tenants: set[str] | None, sites: set[str] | None) -> list[int]:
        caller = Principal(
            name="x",
            role="auditor",
            tenants=None if tenants is None else frozenset(tenants),
            sites=None if sites is None else frozenset(sites),
        )
        return [one.sequence for one in await page(database, caller)]

    assert await seen(None, None) == [4, 3, 2, 1]
    assert await seen({"north"}, None) == [2, 1]
    assert await seen({"north", "south"}, {"a"}) == [3, 1]
    assert await seen(set(), None) == []
    assert await seen(None, set()) == []
    minute = datetime(2026, 11, 20, 9, 32, tzinfo=UTC)
    assert [one.sequence for one in await page(database, since=minute)] == [4, 3, 2]
    assert [one.sequence for one in await page(database, until=minute)] == [1]
    assert len(await page(database, type="kivuko.study.completed.v1")) == 4
    assert await page(database, type="kivuko.study.amended.v1") == []
    assert await page(database, study_instance_uid="1.2") == []


@pytest.mark.parametrize("seed", range(4))
async def test_many_events_in_one_transaction_are_counted_as_each_alone(
    database: Database, clock: SettableClock, seed: int
) -> None:
    dice = Random(seed)
    numbers = {source: dice.sample(range(1, 40), 25) for source in ("/north/ingest", "/south/ingest")}
    coming = [(source, number) for source, those in numbers.items() for number in those]
    dice.shuffle(coming)
    handle = recorder(clock)
    while coming:
        batch = [coming.pop() for _ in range(min(dice.randint(1, 12), len(coming)))]
        async with database.transaction() as tx:
            for source, number in [*batch, batch[0]]:  # one comes twice
                event, raw = example(COMPLETED, id=f"event-{number}", source=source, sequence=number)
                await handle(event, raw, tx)
    found = {(gap.source, gap.first, gap.last) for gap in await gaps(database, clock)}
    one_by_one = {source: reduce(Arrivals.arrived, those, Arrivals()) for source, those in numbers.items()}
    assert found == {(source, *gap) for source, known in one_by_one.items() for gap in known.missing}
    assert len(await page(database)) == 50


async def test_what_remains_of_a_gap_is_as_old_as_the_gap_was(database: Database, clock: SettableClock) -> None:
    opened = clock()
    await record(database, clock, COMPLETED, id="event-9", source="/north/ingest", sequence=9)
    clock.move(timedelta(minutes=5))
    async with database.transaction() as tx:
        for number in (3, 6, 12):
            await recorder(clock)(
                *example(COMPLETED, id=f"event-{number}", source="/north/ingest", sequence=number), tx
            )
    assert [(gap.first, gap.last, gap.since) for gap in await gaps(database, clock)] == [
        (1, 2, opened),
        (4, 5, opened),
        (7, 8, opened),
        (10, 11, clock()),
    ]
