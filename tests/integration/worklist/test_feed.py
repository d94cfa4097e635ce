"""What C-FIND reads of the database, and what it writes there, on both databases: feed, items, recorded queries."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from libs.storage.database import Database
from services.worklist import feed as feeds
from services.worklist import item_rows, matching, query_rows, repository
from services.worklist.caller import Caller
from services.worklist.feed import Feed
from services.worklist.finding import Asked
from services.worklist.index import Index
from services.worklist.models import queries
from services.worklist.queries import Queries
from services.worklist.query import Query
from tests.integration.worklist.conftest import Desk
from tests.unit.worklist.said import JANE, JOHN, NOON, merge, order

pytestmark = pytest.mark.integration
CT: dict[str, Any] = {"S1": {"Modality": ("CT",), "ScheduledStationAETitle": ("CT1",)}}


def names(index: Index) -> list[str]:
    """Give the patients' names of what the index has."""
    return sorted(each.name for each in index.candidates("minsabs", Query(()), "20261120"))


def named(minute: int, number: int, name: str, action: Any = "schedule") -> Any:
    steps = CT if action == "schedule" else {}
    return order(minute, action, placer=f"P{number}", about={"PatientName": (name,)}, steps=steps)


@asynccontextmanager
async def following(database: Database, index: Index, seconds: float = 60) -> AsyncIterator[Feed]:
    """Load the index, and have it fed until the block ends."""
    feed = Feed(database, index, seconds)
    await feed.load()
    task = asyncio.create_task(feed.run())
    try:
        yield feed
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def until(met: Callable[[], bool]) -> None:
    async with asyncio.timeout(30):
        while not met():  # noqa: ASYNC110 (what is waited for has no event)
            await asyncio.sleep(0.01)


async def perform(desk: Desk, name: str, performed: str | None) -> None:
    async with desk.database.transaction() as tx:
        rows = await repository.changed_items(tx, 0, 100)
        ids = [row.id for row in rows if row.attributes["PatientName"] == [name]]
        await repository.set_performed(tx, ids, performed, NOON)


async def test_the_index_begins_with_all_that_is_shown_and_follows_what_changes(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    # So that there are several pages of few items.
    monkeypatch.setattr(feeds, "_AT_ONCE", 2)
    for number in range(5):
        await desk.take(named(number, number, f"N{number}"))
    await desk.take(named(10, 0, "N0", "cancel"))
    await perform(desk, "N1", "completed")
    await perform(desk, "N2", "in-progress")
    index = Index()
    async with following(desk.database, index):
        assert names(index) == ["N2", "N3", "N4"]
        for step in (
            (lambda: desk.take(named(20, 5, "N5")), ["N2", "N3", "N4", "N5"]),
            (lambda: desk.take(named(21, 3, "RENAMED", "update")), ["N2", "N4", "N5", "RENAMED"]),
            (lambda: desk.take(named(22, 4, "N4", "cancel")), ["N2", "N5", "RENAMED"]),
            (lambda: perform(desk, "N2", "completed"), ["N5", "RENAMED"]),
            # The wrong entry had been chosen: it is to be done still.
            (lambda: perform(desk, "N2", None), ["N2", "N5", "RENAMED"]),
        ):
            act, expected = step
            await act()
            await until(lambda expected=expected: names(index) == expected)  # type: ignore[misc]  # bound at once
        # More at once than one look takes.
        await asyncio.gather(*(desk.take(named(30 + each, 30 + each, f"M{each}")) for each in range(7)))
        await until(lambda: len(index) == 10)
    async with desk.database.reading() as tx:
        assert index.revision == max(row.revision for row in await repository.changed_items(tx, 0, 100))
        assert index.revision <= await item_rows.newest_revision(tx)


async def test_another_replica_is_followed_by_looking(desk: Desk, database_url: str) -> None:
    there = Database(database_url, "worklist")
    index = Index()
    try:
        async with following(there, index, seconds=0.02):
            assert names(index) == []
            await desk.take(named(0, 1, "DOE"))
            await until(lambda: names(index) == ["DOE"])
            await desk.take(named(1, 1, "DOE", "cancel"))
            await until(lambda: names(index) == [])
    finally:
        await there.close()


async def test_an_index_lives_on_what_it_has_while_the_database_is_away(desk: Desk) -> None:
    await desk.take(named(0, 1, "DOE"))
    now = [100.0]
    index = Index()
    feed = Feed(desk.database, index, 0.02, lambda: now[0])
    await feed.load()
    task = asyncio.create_task(feed.run())
    async with desk.database.migrating() as connection:
        await connection.exec_driver_sql("ALTER TABLE items RENAME TO gone")
    now[0] += 31
    await until(lambda: feed.stale() is not None)
    assert names(index) == ["DOE"]
    async with desk.database.migrating() as connection:
        await connection.exec_driver_sql("ALTER TABLE gone RENAME TO items")
    await until(lambda: feed.stale() is None)
    await desk.take(named(1, 2, "ROE"))
    await until(lambda: names(index) == ["DOE", "ROE"])
    task.cancel()


async def test_items_are_found_by_accession_number_patient_and_name(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    def placed(number: int, name: str, patient: Any = JANE, **more: Any) -> Any:
        steps = {"S1": {**CT["S1"], "ScheduledProcedureStepStartDate": (f"202611{20 + number}",)}}
        return order(number, placer=f"P{number}", person={"PatientName": (name,)}, patient=patient, steps=steps, **more)

    await desk.take(placed(1, "MÜLLER^JANE", accession="A1"))
    await desk.take(placed(2, "MÜLLER^JANE"))
    await desk.take(placed(3, '100%_\\ROE"S', JOHN, accession="A3"))
    await desk.take(order(4, "cancel", placer="P2"))
    async with desk.database.reading() as tx:

        async def starts(rows: Any) -> list[str]:
            return [row.start[:8] for row in await rows]

        assert await starts(item_rows.of_accession(tx, "A1", 10)) == ["20261121"]
        # Shown or not, the newest first.
        assert await starts(item_rows.of_patient(tx, "100", 10)) == ["20261122", "20261121"]
        assert await starts(item_rows.of_patient(tx, "100", 1)) == ["20261122"]
        assert await starts(item_rows.of_patient(tx, "MÜLLER", 10)) == []
        for part, found in (
            ("MÜLLER", ["20261122", "20261121"]),
            ("muller", ["20261122", "20261121"]),
            ("ller^j", ["20261122", "20261121"]),
            ("100%_", ["20261123"]),
            ("\\ROE", ["20261123"]),
            ('ROE"S', ["20261123"]),
            ("1_0", []),
            ("%", ["20261123"]),
        ):
            is_meant = partial(lambda wanted, name: matching.fold(wanted) in matching.fold(name), part)
            assert await starts(item_rows.named_like(tx, is_meant, 10)) == found, part
            monkeypatch.setattr(item_rows, "_NAMES", 1)
            assert await starts(item_rows.named_like(tx, is_meant, 10)) == found, part
            assert len(await item_rows.named_like(tx, is_meant, 1)) == min(1, len(found)), part
    await desk.take(merge(9, JANE, JOHN))
    async with desk.database.reading() as tx:
        assert len(await item_rows.of_patient(tx, "100", 10)) == 3
        assert len(await item_rows.of_patient(tx, "200", 10)) == 3


def asked(seconds: int, node: str = "CT1", identifier: bytes = b"1", **more: Any) -> Asked:
    who = Caller("a", node, "malabo", more.pop("tenant", "minsabs"), node, "KIVUKO", "10.0.0.1")
    return Asked(NOON + timedelta(seconds=seconds), who, identifier, "1.2.840.10008.1.2", **more)


async def kept(desk: Desk) -> list[tuple[str, int, Any]]:
    async with desk.database.reading() as tx:
        rows = await tx.execute(select(queries).order_by(queries.c.id))
        return [(row.node, row.times, row.at) for row in rows]


async def test_the_same_query_once_more_counts_up_its_row(desk: Desk) -> None:
    recorder = Queries(desk.database, lambda: NOON, a_node=10, days=1)
    for query in (
        asked(0, keys={"PatientName": "Ünal", "Steps": [{"Modality": ""}]}, replaced=frozenset({"PatientName"})),
        asked(1),
        asked(2, count=3),
        asked(3, count=3, replaced=frozenset({"PatientName"})),
        asked(4, node="MR1", count=3),
        asked(5, count=3),
        asked(6, identifier=b"2", count=3),
        asked(7, count=3),
    ):
        recorder.note(query)
    await recorder.write()
    expected = [("CT1", 2, 1), ("CT1", 3, 5), ("MR1", 1, 4), ("CT1", 1, 6), ("CT1", 1, 7)]
    assert await kept(desk) == [(node, times, NOON + timedelta(seconds=at)) for node, times, at in expected]
    async with desk.database.reading() as tx:
        first = await query_rows.one(tx, 1)
        assert first is not None
        assert (first.keys["Steps"], first.first_at, first.replaced) == ([{"Modality": ""}], NOON, [])
        assert first.identifier == b"1"
        assert [row.id for row in await query_rows.listed(tx, node="CT1", before=None, limit=2)] == [5, 4]
        assert [row.id for row in await query_rows.listed(tx, node="CT1", before=4, limit=9)] == [2, 1]
        assert [row.id for row in await query_rows.listed(tx, calling_aet="MR1", before=None, limit=9)] == [3]
        assert await query_rows.one(tx, 99) is None
    # The row that would be counted up was pruned meanwhile.
    async with desk.database.transaction() as tx:
        await query_rows.prune(tx, NOON + timedelta(hours=1), 10)
    recorder.note(asked(8, count=3))
    await recorder.write()
    assert [times for _, times, _ in await kept(desk)] == [1]


async def test_queries_are_forgotten_by_age_and_by_number(desk: Desk) -> None:
    now = [NOON]
    recorder = Queries(desk.database, lambda: now[0], a_node=2, days=1)
    for number in range(4):
        recorder.note(asked(number, identifier=bytes([number])))
    recorder.note(asked(9, tenant="other"))
    recorder.note(asked(9, node="MR1"))
    await recorder.write()
    async with desk.database.transaction() as tx:
        await query_rows.prune(tx, NOON, 2)
    # The same node's key in another tenant is another node.
    assert [(node, at - NOON) for node, _, at in await kept(desk)] == [
        ("CT1", timedelta(seconds=2)),
        ("CT1", timedelta(seconds=3)),
        ("CT1", timedelta(seconds=9)),
        ("MR1", timedelta(seconds=9)),
    ]
    async with desk.database.transaction() as tx:
        await query_rows.prune(tx, NOON + timedelta(seconds=9), 2)
    assert [at - NOON for _, _, at in await kept(desk)] == [timedelta(seconds=9)] * 2


async def test_queries_wait_while_the_database_is_away(desk: Desk) -> None:
    recorder = Queries(desk.database, lambda: NOON, a_node=10, days=1)
    recorder.note(asked(0))
    async with desk.database.migrating() as connection:
        await connection.exec_driver_sql("ALTER TABLE queries RENAME TO gone")
    with pytest.raises(DBAPIError):
        await recorder.write()
    recorder.note(asked(1, node="MR1"))
    async with desk.database.migrating() as connection:
        await connection.exec_driver_sql("ALTER TABLE gone RENAME TO queries")
    await recorder.write()
    assert [node for node, _, _ in await kept(desk)] == ["CT1", "MR1"]


async def test_an_identifier_that_is_no_query_of_a_modality_is_not_kept(desk: Desk) -> None:
    recorder = Queries(desk.database, lambda: NOON, a_node=10, days=1)
    recorder.note(asked(0, identifier=bytes(1 << 16)))
    recorder.note(asked(1, identifier=bytes((1 << 16) + 1)))
    await recorder.write()
    async with desk.database.reading() as tx:
        assert [len(row.identifier) for row in await query_rows.listed(tx, before=None, limit=2)] == [0, 1 << 16]
