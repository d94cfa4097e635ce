"""Copies go when everything of them is where it was to go and their time is over, and never otherwise."""

import asyncio
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import Connection, select, update
from sqlalchemy.event import listens_for

from contracts.definition import Retention
from contracts.instances import InstancesStored
from libs.storage.database import Database
from services.ingest import holdings
from services.ingest.evidence import Patience
from services.ingest.expiry import Expiry
from services.ingest.models import (
    arrivals,
    batches,
    conflicts,
    deliveries,
    flags,
    garbage,
    instances,
    quarantine,
    series,
    studies,
)
from services.ingest.repository import Indexed, RacedError, index
from services.ingest.retention import judge
from services.ingest.work import Work
from tests.integration.ingest.conftest import NETWORK, Running, running
from tests.integration.ingest.peer import send
from tests.integration.ingest.test_api import EVERYTHING, NORTH, client
from tests.support.migrated import migrate
from tests.support.synthetic import make_ct, make_study
from tests.unit.ingest.entries import make_entry

pytestmark = pytest.mark.integration
KEEP = {**NETWORK, "retention": [{"keep": "1s"}]}


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look for copies all the time."""
    monkeypatch.setenv("KIVUKO_INGEST_RETENTION_SECONDS", "0.05")


async def stored(ingest: Running, paths: list[Path], version: int = 1) -> Any:
    """Send a study, and wait for a version of it."""
    assert set(await asyncio.to_thread(send, ingest.port, paths)) == {0x0000}
    await ingest.until_indexed()

    async def complete() -> bool:
        return bool(await ingest.rows(select(studies.c.id).where(studies.c.version == version)))

    await ingest.until(complete, f"version {version}")
    return (await ingest.rows(select(studies).where(studies.c.version == version)))[0]


async def decide(ingest: Running, row: Any, *destinations: str) -> None:
    """Have rules say where a version goes."""
    async with ingest.database.transaction() as tx:
        await holdings.note_decision(tx, (row.tenant, row.study_uid), row.version, destinations, datetime.now(UTC))


async def deliver(ingest: Running, row: Any, destination: str) -> None:
    """Have egress say that a destination has a version."""
    async with ingest.database.transaction() as tx:
        await holdings.note_delivered(tx, (row.tenant, row.study_uid), row.version, destination, datetime.now(UTC))


def objects(ingest: Running) -> list[str]:
    return sorted(ingest.objects.list(""))


async def until_gone(ingest: Running, count: int = 1) -> dict[str, Any]:
    """Wait for a copy to go, objects included; gives what was said of the last."""
    event: dict[str, Any] = (await ingest.until_events("study.expired", count))[-1]

    async def empty() -> bool:
        return not await ingest.rows(select(garbage))

    await ingest.until(empty, "no garbage")
    return event


async def kept_through(ingest: Running, folder: Path) -> None:
    """Let another study go: retention has looked at everything older by then."""
    gone = len(await ingest.events("study.expired"))
    other = make_ct(folder)
    assert await asyncio.to_thread(send, ingest.port, [other]) == [0x0000]
    await ingest.until_indexed()
    seen = select(studies).order_by(studies.c.id.desc()).limit(1)

    async def complete() -> bool:
        return bool((await ingest.rows(seen))[0].version == 1)

    await ingest.until(complete, "the other study")
    (row,) = await ingest.rows(seen)
    await decide(ingest, row, "archive")
    await deliver(ingest, row, "archive")
    event = await until_gone(ingest, gone + 1)
    assert event["data"]["study_instance_uid"] == row.study_uid


async def test_a_delivered_copy_goes_with_all_its_objects_and_is_told(tmp_path: Path, database_url: str) -> None:
    async with running(tmp_path / "home", network=KEEP, database_url=database_url) as ingest:
        row = await stored(ingest, make_study(tmp_path, 3))
        assert {key.partition("/")[0] for key in objects(ingest)} == {"default", "headers", "manifests"}
        await decide(ingest, row, "archive")
        await deliver(ingest, row, "archive")
        event = await until_gone(ingest)
        assert objects(ingest) == []
        for table in (instances, series, batches, arrivals, conflicts):
            assert not await ingest.rows(select(table))
        (after,) = await ingest.rows(select(studies))
        assert (after.version, after.instance_count, after.attributes) == (1, 0, None)
        assert after.expired_at is not None
        said = event["data"]
        assert (said["version"], said["content_hash"], said["size"]) == (1, row.version_hash, row.size)
        assert (said["instance_count"], said["keep"], said["destinations"]) == (3, 1, ["archive"])


async def test_a_discarded_copy_goes_with_its_reason_and_only_the_version_that_was_discarded(
    tmp_path: Path, database_url: str
) -> None:
    async with running(tmp_path / "home", network=KEEP, database_url=database_url) as ingest:
        row = await stored(ingest, make_study(tmp_path, 1))
        study = row.tenant, row.study_uid
        async with ingest.database.transaction() as tx:
            # In any order, and an earlier version's reason is not this one's.
            await holdings.note_discarded(tx, study, 0, "another reason")
            await holdings.note_decision(tx, study, 1, (), datetime.now(UTC))
        await kept_through(ingest, tmp_path)
        assert (await ingest.rows(select(studies.c.instance_count).where(studies.c.id == row.id)))[0] == (1,)
        async with ingest.database.transaction() as tx:
            await holdings.note_discarded(tx, study, 1, "no patient (rule `tests`)")
            await holdings.note_discarded(tx, study, 1, "told twice")
        said = (await until_gone(ingest, 2))["data"]
        assert (said["study_instance_uid"], said["destinations"]) == (row.study_uid, [])
        assert said["discarded"] == "no patient (rule `tests`)"


async def test_the_manifests_of_all_versions_go(tmp_path: Path) -> None:
    async with running(tmp_path / "home", network=KEEP) as ingest:
        first = await stored(ingest, make_study(tmp_path, 1))
        # As a process leaves it that was killed before it recorded a version.
        cut_off = f"manifests/{first.tenant}/{first.study_uid}/2-0123456789abcdef-01234567.json"
        await asyncio.to_thread(ingest.objects.put, cut_off, b"{}")
        row = await stored(ingest, [make_ct(tmp_path, study_uid=first.study_uid)], version=2)
        assert len([key for key in objects(ingest) if key.startswith("manifests/")]) == 3
        await decide(ingest, row, "archive")
        await deliver(ingest, row, "archive")
        await until_gone(ingest)
        assert objects(ingest) == []


@pytest.mark.parametrize("why", ["undecided", "nowhere", "owed", "owed-by-an-earlier-version", "flag", "quarantine"])
async def test_what_is_in_doubt_stays(tmp_path: Path, why: str) -> None:
    async with running(tmp_path / "home", network=KEEP) as ingest:
        row = await stored(ingest, make_study(tmp_path, 2))
        before = objects(ingest)
        if why != "undecided":
            await decide(ingest, row, *([] if why == "nowhere" else ["archive", "viewer"]))
            await deliver(ingest, row, "viewer")
        async with ingest.database.transaction() as tx:
            if why == "owed-by-an-earlier-version":
                await tx.execute(update(deliveries).values(done_version=1))
                await tx.execute(deliveries.insert().values(**_owed(row)))
            if why in ("flag", "quarantine"):
                await tx.execute(update(deliveries).values(done_version=1))
            if why == "flag":
                await tx.execute(flags.insert().values(**_flag(row)))
            if why == "quarantine":
                await tx.execute(quarantine.insert().values(**_aside(row)))
        await kept_through(ingest, tmp_path)
        assert set(before) <= set(objects(ingest))
        assert len(await ingest.rows(select(instances))) == 2


def _owed(row: Any) -> dict[str, Any]:
    return {
        "tenant": row.tenant,
        "study_uid": row.study_uid,
        "destination": "reader",
        "wanted_version": 1,
        "changed_at": datetime.now(UTC),
    }


def _flag(row: Any) -> dict[str, Any]:
    return {
        "study_id": row.id,
        "kind": "patient-conflict",
        "fields": ["PatientName"],
        "other_study_uid": "1.2",
        "raised_at": datetime.now(UTC),
    }


def _aside(row: Any) -> dict[str, Any]:
    now = datetime.now(UTC)
    return {
        "id": "a",
        "tenant": row.tenant,
        "site": "luba",
        "reason": "identity-mismatch",
        "detail": "x",
        "study_uid": row.study_uid,
        "source": row.source,
        "transfer_syntax_uid": "1.2",
        "object_key": "quarantine/default/a.dcm",
        "content_hash": "0" * 64,
        "size": 1,
        "received_at": now,
        "last_received_at": now,
    }


async def test_nothing_goes_while_the_definition_says_nothing_of_retention(tmp_path: Path) -> None:
    async with running(tmp_path / "home") as ingest:
        row = await stored(ingest, make_study(tmp_path, 1))
        await decide(ingest, row, "archive")
        await deliver(ingest, row, "archive")
        assert await _expiry(ingest, None).look() == 0
        assert await ingest.rows(select(instances))


def _expiry(ingest: Running, network: Any) -> Expiry:
    return Expiry(
        ingest.database,
        ingest.objects,
        Work(lambda: None),
        None,  # type: ignore[arg-type]  # nothing is said
        replica="test",
        network=lambda: network,
        seconds=1,
        clock=lambda: datetime.now(UTC) + timedelta(days=9),
    )


async def test_what_comes_again_is_the_next_version(tmp_path: Path, database_url: str) -> None:
    paths = make_study(tmp_path, 2)
    (tmp_path / "late").mkdir()
    async with running(tmp_path / "home", network=KEEP, database_url=database_url) as ingest:
        row = await stored(ingest, paths)
        await decide(ingest, row, "archive")
        await deliver(ingest, row, "archive")
        await until_gone(ingest)
        late = make_ct(tmp_path / "late", study_uid=row.study_uid)
        again = await stored(ingest, [paths[0], late], version=2)
        assert (again.id, again.instance_count, again.expired_at) == (row.id, 2, None)
        (event,) = await ingest.events("study.amended")
        assert (event["data"]["instance_count"], event["data"]["added_count"]) == (2, 2)
        batches_told = [InstancesStored.model_validate(e["data"]) for e in await ingest.events("instances.stored")]
        assert [(each.after_version, len(each.instances)) for each in batches_told] == [(0, 2), (1, 2)]
        # What went before stays where it is, and the next version is owed to the archive again.
        await decide(ingest, again, "archive")
        await kept_through(ingest, tmp_path)
        assert len(await ingest.rows(select(instances))) == 2
        await deliver(ingest, again, "archive")
        await until_gone(ingest, 3)
        assert objects(ingest) == []


async def test_a_duplicate_of_what_has_just_gone_is_looked_at_once_more(tmp_path: Path) -> None:
    """The indexer found it to be a duplicate, and the copy expired before that was written down."""
    entry = make_entry(1)
    batch = Indexed("b", "default", entry.study_uid, (), {"stored": [], "duplicate": [entry]}, None)
    async with running(tmp_path / "home", network=KEEP, loops=False) as ingest:
        with pytest.raises(RacedError):
            async with ingest.database.transaction() as tx:
                await index(tx, [batch], now=datetime.now(UTC), patience=Patience(quiet=timedelta(seconds=1)))
        assert not await ingest.rows(select(arrivals))


async def test_an_object_that_is_named_again_is_not_removed(tmp_path: Path) -> None:
    async with running(tmp_path / "home", network=KEEP) as ingest:
        await stored(ingest, make_study(tmp_path, 2))
        named = [row.object_key for row in await ingest.rows(select(instances))]
        ingest.objects.put("default/1.2/3/1.5.0-a.dcm", b"x")
        async with ingest.database.transaction() as tx:
            for key in (*named, "default/1.2/3/1.5.0-a.dcm"):
                await holdings.discard(tx, key, datetime.now(UTC))

        async def empty() -> bool:
            return not await ingest.rows(select(garbage))

        await ingest.until(empty, "no garbage")
        assert set(named) <= set(objects(ingest))
        assert ingest.objects.stat("default/1.2/3/1.5.0-a.dcm") is None


EVENTS = st.one_of(
    st.tuples(st.just("decided"), st.integers(1, 3), st.sets(st.sampled_from("abc"))),
    st.tuples(st.just("delivered"), st.integers(1, 3), st.sampled_from("abc")),
    # A person cancelled what was to go to one, or takes that back; another one has it instead. By the event's number.
    st.tuples(
        st.just("word"),
        st.integers(1, 9),
        st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.sampled_from([None, "d"])),
    ),
)
RETENTION = (Retention(keep=1),)


async def follow(history: list[tuple[str, int, Any]], version: int) -> list[tuple[bool, bool]]:
    """Take events in; after each: whether the copy may go, and whether everything is where it was to go."""
    said = datetime(2026, 1, 1, tzinfo=UTC)
    found = []
    with tempfile.TemporaryDirectory() as folder:
        database = Database(f"sqlite://{folder}", "ingest")
        await migrate(database, "services.ingest")
        async with database.transaction() as tx:
            await tx.execute(studies.insert().values(**_study(said, version)))
        wanted: dict[str, int] = {}
        done: dict[str, int] = {}
        words: dict[str, tuple[int, int, str | None]] = {}
        decided = 0
        for kind, number, what in history:
            async with database.transaction() as tx:
                if kind == "decided":
                    await holdings.note_decision(tx, ("t", "1.2"), number, what, said)
                elif kind == "word":
                    await holdings.note_word(tx, ("t", "1.2"), what[0], what[1:], number, said)
                else:
                    await holdings.note_delivered(tx, ("t", "1.2"), number, what, said)
            if kind == "decided":
                decided = max(decided, number)
                wanted |= {each: max(number, wanted.get(each, 0)) for each in what}
            elif kind == "word":
                words[what[0]] = max(words.get(what[0], (0, 0, None)), (number, *what[1:]), key=lambda word: word[0])
            else:
                done[what] = max(number, done.get(what, 0))
            async with database.reading() as tx:
                rows = await holdings.kept(tx, None, 10)
                verdict = judge((await holdings.copies(tx, rows))[rows[0].id], RETENTION)
                ripe = await holdings.ripe(tx, said, None, 10)
            waived = {each: word[1] for each, word in words.items()}
            everywhere = all(max(done.get(each, 0), waived.get(each, 0)) >= number for each, number in wanted.items())
            there = any(
                number == version
                and (done.get(each, 0) >= number or (waived.get(each, 0) >= number and words[each][2]))
                for each, number in wanted.items()
            )
            may_go = verdict.may_go(said + timedelta(days=1))
            assert may_go <= bool(ripe), "the first look leaves nothing out"
            found.append((may_go, everywhere and there and decided == version))
        await database.close()
    return found


def _study(said: datetime, version: int) -> dict[str, Any]:
    return {
        "tenant": "t",
        "study_uid": "1.2",
        "first_arrival": said,
        "first_arrival_id": "a",
        "last_arrival": said,
        "source": {},
        "sites": [],
        "instance_count": 1,
        "version": version,
    }


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(EVENTS, max_size=8), st.integers(1, 3))
def test_in_any_order_nothing_goes_that_is_not_where_it_was_to_go(
    history: list[tuple[str, int, Any]], version: int
) -> None:
    for may_go, everywhere in asyncio.run(follow(history, version)):
        assert may_go == everywhere


async def test_the_plan_says_what_goes_and_what_is_held_within_the_callers_scope(tmp_path: Path) -> None:
    own = {**NETWORK, "retention": [{"keep": "1h"}]}
    async with running(tmp_path / "home", network=own) as ingest:
        for calling in ("CT1", "MR1", "NORTH"):
            assert await asyncio.to_thread(send, ingest.port, make_study(tmp_path, 1), calling=calling) == [0x0000]
            await ingest.until_indexed()
        await ingest.until_events("study.completed", 3)
        studied = await ingest.rows(select(studies).order_by(studies.c.last_arrival))
        await decide(ingest, studied[0], "archive")
        await deliver(ingest, studied[0], "archive")
        await decide(ingest, studied[1], "archive", "viewer")
        await deliver(ingest, studied[1], "viewer")
        async with client(ingest, EVERYTHING) as http:
            first = (await http.get("/v1/ingest/retention", params={"limit": 2})).json()
            assert first["in_force"]
            assert [each["study_instance_uid"] for each in first["studies"]] == [row.study_uid for row in studied[:2]]
            free, owed = first["studies"]
            assert (free["held"], free["keep"], free["destinations"]) == ([], 3600, ["archive"])
            assert datetime.fromisoformat(free["until"]) - datetime.fromisoformat(free["last_arrival"]) == timedelta(
                hours=1
            )
            assert [(hold["kind"], "archive" in hold["detail"]) for hold in owed["held"]] == [("undelivered", True)]
            rest = (await http.get("/v1/ingest/retention", params={"limit": 2, "after": first["after"]})).json()
            assert [[hold["kind"] for hold in each["held"]] for each in rest["studies"]] == [["undecided"]]
            assert rest["after"] is None
            found = (await http.get("/v1/ingest/retention", params={"held": "undelivered"})).json()["studies"]
            assert [each["study_instance_uid"] for each in found] == [studied[1].study_uid]
            shown = (await http.get(f"/v1/ingest/studies/{studied[1].study_uid}")).json()["keeping"]
            assert shown["held"] == owed["held"]
        async with client(ingest, NORTH) as http:
            seen = (await http.get("/v1/ingest/retention")).json()["studies"]
            assert [each["tenant"] for each in seen] == ["north"]


async def test_a_study_whose_copy_is_gone_is_shown_as_expired(tmp_path: Path) -> None:
    async with running(tmp_path / "home", network=KEEP) as ingest:
        row = await stored(ingest, make_study(tmp_path, 1))
        await decide(ingest, row, "archive")
        await deliver(ingest, row, "archive")
        await until_gone(ingest)
        async with client(ingest, EVERYTHING) as http:
            (shown,) = (await http.get("/v1/ingest/studies", params={"state": "expired"})).json()["studies"]
            assert (shown["state"], shown["instance_count"], shown["modalities"]) == ("expired", 0, [])
            assert (await http.get("/v1/ingest/studies", params={"state": "complete"})).json()["studies"] == []
            assert (await http.get("/v1/ingest/retention")).json()["studies"] == []


async def test_what_a_crash_left_behind_is_worked_off(tmp_path: Path) -> None:
    """The transaction stands, and the process ended before, or while, the objects went."""
    home = tmp_path / "home"
    async with running(home) as ingest:
        row = await stored(ingest, make_study(tmp_path, 3))
        before = objects(ingest)
    async with running(home, loops=False) as ingest:
        async with ingest.database.transaction() as tx:
            kept = await holdings.lock(tx, row.id)
            assert kept is not None
            await holdings.remove(tx, kept, datetime.now(UTC))
        assert objects(ingest) == before
        assert {each.object_key for each in await ingest.rows(select(garbage))} == set(before)
        ingest.objects.delete(before[0])
    # Without retention in the definition, too: what is noted is gone for good already.
    async with running(home) as ingest:

        async def empty() -> bool:
            return not await ingest.rows(select(garbage))

        await ingest.until(empty, "no garbage")
        assert objects(ingest) == []


async def test_looking_for_copies_reads_an_index(tmp_path: Path) -> None:
    """What expired long ago stays as rows, and costs nothing."""
    database = Database(f"sqlite://{tmp_path}", "ingest")
    await migrate(database, "services.ingest")
    said: list[str] = []

    @listens_for(database.engine.sync_engine, "before_cursor_execute")
    def note(_connection: Connection, _cursor: Any, statement: str, *_: Any) -> None:
        said.append(statement)

    async with database.transaction() as tx:
        await holdings.ripe(tx, datetime.now(UTC), (datetime.now(UTC), 1), 10)
        (asked,) = [each for each in said if "last_arrival" in each]
        connection = await tx.connection()
        plan = await connection.exec_driver_sql(f"EXPLAIN QUERY PLAN {asked}", ("1",) * asked.count("?"))
        steps = [row.detail for row in plan]
    assert [step for step in steps if "USING INDEX studies_kept" in step]
    assert not [step for step in steps if step.startswith("SCAN") or "TEMP B-TREE" in step]
    await database.close()
