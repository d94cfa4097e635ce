"""Orders on both databases: together, again, and on several replicas."""

import asyncio

import pytest
from hypothesis import HealthCheck, given, settings
from sqlalchemy import func, select

from libs.storage import database
from libs.web.principal import Principal
from services.worklist import listing, repository
from services.worklist.change import Change, Number
from services.worklist.models import changes, items, merges, messages, metadata, orders
from services.worklist.orders import NotTakenError
from tests.integration.worklist.conftest import Desk, make_desk
from tests.support.postgresql import PostgreSQL
from tests.support.schema import assert_migrated
from tests.unit.worklist.said import JANE, JOHN, Books, about, merge, order, value
from tests.unit.worklist.test_any_order import histories

pytestmark = pytest.mark.integration
PERSON = ("PatientID", "PatientName", "PatientBirthDate")
CT = {"S1": {"Modality": ("CT",), "ScheduledStationAETitle": ("CT1",)}}


async def test_revisions_make_the_tables_of_the_metadata(database_url: str) -> None:
    await assert_migrated(database_url, "worklist", metadata)


async def test_an_order_is_placed_changed_and_cancelled(desk: Desk) -> None:
    await desk.take(order(0, placer="P1", steps=CT))
    await desk.take(order(1, "update", placer="P1", about={"RequestedProcedureDescription": ("HEAD",)}))
    await desk.take(order(2, "cancel", placer="P1"))
    events = await desk.events()
    assert [name for name, _ in events] == ["placed", "changed", "cancelled"]
    assert len({data["study_instance_uid"] for _, data in events}) == 1
    assert [data["revision"] for _, data in events] == sorted(data["revision"] for _, data in events)
    assert await desk.items() == []


async def test_the_same_identifier_at_two_sites_is_two_people_s_where_nobody_issued_it(desk: Desk) -> None:
    here, there = Number("100", site="malabo"), Number("100", site="bata")
    await desk.take(order(0, placer="P1", patient=here, person={"PatientName": ("DOE^JANE",)}, steps=CT))
    named = {"PatientName": ("ROE^JOHN",)}
    await desk.take(order(1, placer="P2", patient=there, person=named, steps=CT, site="bata", source="HIS"))
    await desk.take(about(2, here, PatientBirthDate=("19800101",)))
    await desk.take(order(3, "update", placer="P1", patient=here))
    await desk.take(merge(4, Number("200", site="bata"), there))
    shown = {row["site"]: [row["attributes"].get(each) for each in PERSON] for row in await desk.items()}
    assert shown == {"malabo": [["100"], ["DOE^JANE"], ["19800101"]], "bata": [["200"], ["ROE^JOHN"], None]}
    async with desk.database.reading() as tx:
        [row] = await listing.list_merges(tx, Principal("night", "admin"), undone=False, before=None, limit=9)
        assert (row.kept, row.kept_site, row.merged, row.merged_site) == ("200", "bata", "100", "bata")
    assert await desk.orders.unmerge(row.id, "minsabs", "night", None)
    assert {row["attributes"]["PatientID"][0] for row in await desk.items()} == {"100"}


async def test_many_at_once_share_transactions_and_each_is_an_item(desk: Desk) -> None:
    commits = []
    desk.database.on_commit(lambda _: commits.append(1))
    patients = [Number(str(number % 7), "HIS") for number in range(100)]
    taken = await asyncio.gather(
        *(desk.take(order(n, placer=f"P{n}", patient=patients[n], steps=CT)) for n in range(100))
    )
    assert {outcome.result for one in taken for outcome in one.outcomes} == {"applied"}
    assert len(await desk.items()) == 100
    assert len(commits) < 20


async def test_a_repeated_message_is_answered_alike_and_changes_nothing(desk: Desk) -> None:
    first = await desk.take(order(0, placer="P1", steps=CT))
    again, other = await asyncio.gather(
        desk.take(order(0, placer="P1", steps=CT)), desk.take(order(0, placer="P2", steps=CT))
    )
    assert (again.outcomes, again.repeated) == (first.outcomes, True)
    assert (other.outcomes[0].result, other.repeated) == ("applied", False)
    assert len(await desk.events()) == 2


async def test_the_same_message_twice_at_once_counts_once(desk: Desk) -> None:
    both = await asyncio.gather(*(desk.take(order(0, placer="P1", steps=CT)) for _ in range(2)))
    assert sorted(one.repeated for one in both) == [False, True]
    async with desk.database.reading() as tx:
        assert await tx.scalar(select(func.count()).select_from(changes)) == 1


async def test_a_late_message_is_kept_and_said_to_be_older(desk: Desk) -> None:
    await desk.take(order(5, "cancel", placer="P1"))
    taken = await desk.take(order(0, placer="P1"))
    assert [one.result for one in taken.outcomes] == ["older"]


async def test_a_message_counts_as_a_whole(desk: Desk) -> None:
    taken = await desk.take(order(0, placer="P1", steps=CT), order(0, steps=CT, part=1))
    assert [one.result for one in taken.outcomes] == ["refused", "refused"]
    assert "names no order" in taken.outcomes[1].reason
    async with desk.database.reading() as tx:
        assert [await tx.scalar(select(func.count()).select_from(table)) for table in (orders, changes, items)] == [
            0
        ] * 3
        kept = (await tx.execute(select(messages))).one()
    assert (kept.answer, "names no order" in kept.said) == ("AE", True)


async def test_what_fails_of_itself_holds_up_no_other(desk: Desk) -> None:
    bad = order(0, "schedule", placer="P1", about={"RequestedProcedureDescription": ("\ud800",)})
    results = await asyncio.gather(
        desk.take(order(0, placer="P0", steps=CT)),
        desk.take(bad, raw=b"bad"),
        desk.take(order(0, placer="P2", steps=CT)),
        return_exceptions=True,
    )
    assert [isinstance(one, Exception) for one in results] == [False, True, False]
    assert len(await desk.items()) == 2


async def test_what_waits_in_vain_for_the_database_is_not_taken_and_told_so(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lock that is not to be had is not the message's fault: its sender must send it again (AR), not mend it."""
    monkeypatch.setattr(database, "LOCK_TIMEOUT", 200)
    desk, other = await make_desk(database_url), database.Database(database_url, "worklist")
    async with other.transaction() as tx:
        await repository.lock(tx)
        with pytest.raises(NotTakenError):
            await desk.take(order(0, placer="P1", steps=CT))
    assert [one.result for one in (await desk.take(order(0, placer="P1", steps=CT))).outcomes] == ["applied"]
    assert len(await desk.items()) == 1
    await other.close()
    await desk.database.close()


async def test_news_of_a_patient_and_merges_reach_open_items_and_a_person_undoes_them(desk: Desk) -> None:
    await desk.take(order(0, placer="P1", patient=JOHN, person={"PatientName": ("DOE^JOHN",)}, steps=CT))
    before = await desk.items()
    await desk.take(merge(1))
    await desk.take(about(2, JANE, PatientName=("ROE^JANE",)))
    [item] = await desk.items()
    assert (value(item, "PatientID"), value(item, "PatientName")) == ("100", "ROE^JANE")
    refused = await desk.take(merge(3, JOHN, JANE))
    assert "inverse" in refused.outcomes[0].reason
    async with desk.database.reading() as tx:
        [row] = (await tx.execute(select(merges))).all()
    assert await desk.orders.unmerge(row.id, "minsabs", "local", "wrong person")
    assert not await desk.orders.unmerge(row.id, "minsabs", "local", None)
    assert await desk.items() == before
    assert (await desk.take(merge(4))).outcomes[0].result == "applied"
    assert value((await desk.items())[0], "PatientID") == "100"


async def test_orders_are_found_by_every_identifier_of_their_patient(desk: Desk) -> None:
    old, older, other = (Number(value, "HIS") for value in ("099", "098", "097"))
    for minute, (kept, merged) in enumerate([(JANE, JOHN), (JOHN, old), (old, older)]):
        await desk.take(merge(minute, kept, merged))
    for minute, patient in enumerate([JANE, older, other], start=10):
        await desk.take(order(minute, placer=f"P{minute}", patient=patient, steps=CT))

    async def found(identifier: str) -> set[str]:
        async with desk.database.reading() as tx:
            return {row.placer for row in await listing.list_orders(tx, [listing.of_patient(identifier)], None, 10)}

    for each in ("100", "200", "099", "098"):
        assert await found(each) == {"P10", "P11"}, each
    assert await found("097") == {"P12"}
    assert await found("") == set()


async def test_orders_join_and_keep_their_items(desk: Desk) -> None:
    await desk.take(order(0, placer="P1", steps=CT))
    await desk.take(order(1, filler="F1", steps=CT))
    async with desk.database.transaction() as tx:
        rows = await repository.changed_items(tx, 0, 10)
        await repository.set_performed(tx, [rows[0].id], "in-progress", rows[0].changed_at)
    taken = await desk.take(order(2, "update", placer="P1", filler="F1"))
    assert len(await desk.items()) == 1
    later = await desk.take(order(3, "update", filler="F1", about={"RequestingService": ("ER",)}))
    assert later.outcomes[0].order_id == taken.outcomes[0].order_id
    async with desk.database.reading() as tx:
        performed = {row.performed for row in await repository.changed_items(tx, 0, 10) if row.state == "scheduled"}
    assert performed == {"in-progress"}


async def test_a_reader_of_revisions_misses_nothing(desk: Desk) -> None:
    seen: dict[int, str] = {}
    last = 0
    for minute in range(6):
        await desk.take(order(minute, placer=f"P{minute % 3}", steps=CT, about={"RequestingService": (str(minute),)}))
        async with desk.database.reading() as tx:
            for row in await repository.changed_items(tx, last, 100):
                assert row.revision > last
                last = row.revision
                seen[row.id] = row.attributes["RequestingService"][0]
    assert sorted(seen.values()) == ["3", "4", "5"]


@given(history=histories())
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_tables_end_as_the_fold_does(
    history: tuple[list[Change], list[Change]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    books = Books()
    for change in history[0]:
        books.take(change)

    async def run() -> list[dict[str, object]]:
        desk = await make_desk(f"sqlite:///{tmp_path_factory.mktemp('db')}")
        for change in history[1]:
            await desk.take(change)
        shown = await desk.items()
        await desk.database.close()
        return shown

    assert asyncio.run(run()) == books.items()


async def test_replicas_at_the_same_time_make_one_order(postgresql: PostgreSQL) -> None:
    url = postgresql.database()
    replicas = [await make_desk(url) for _ in range(3)]
    said = [order(n, placer="P1", filler=f"F{n % 2}", steps=CT) for n in range(12)]
    said += [order(n, placer=f"Q{n}", steps=CT) for n in range(12)]
    await asyncio.gather(*(replicas[n % 3].take(one) for n, one in enumerate(said * 2)))
    assert len(await replicas[0].items()) == 13
    for replica in replicas:
        await replica.database.close()
