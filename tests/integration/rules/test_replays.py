"""Replays in processes of their own, on each database."""

import asyncio
import csv
import gzip
import json
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import psutil
import pytest
from pydantic import SecretStr

from contracts.definition import Definition
from services.rules import chronicle, history, replay_rows, repository
from services.rules.replaying import CHANGES, REPORT, Order, Worker, slices
from services.rules.replays import BusyError, Replays
from tests.unit.rules.scene import (
    NOW,
    STUDY,
    TENANT,
    Scene,
    completed,
    definition,
    instance,
    make_scene,
    put_headers,
    rule,
    stored,
)

pytestmark = pytest.mark.integration

ONE, TWO, THREE = instance(1), instance(2), instance(3)
BEFORE = definition(rule("all"))
AFTER = definition(rule("all", "telerad"), rule("ct", "both", "study", when='study.Modality == "CT"', priority="stat"))
SINCE, UNTIL = NOW - timedelta(days=1), NOW + timedelta(days=1)


def replays(scene: Scene, database_url: str, **more: Any) -> Replays:
    options = {"processes": 2, "longest": 120.0, **more}
    return Replays(scene.database, scene.objects, database_url=database_url, clock=lambda: NOW, **options)


async def over(scene: Scene, replay: str) -> Any:
    """Wait until a replay is over; the test's time limit ends it."""
    while True:
        async with scene.database.reading() as tx:
            row = await replay_rows.find(tx, replay)
        assert row is not None
        if row.state != "running":
            return row
        await asyncio.sleep(0.1)


async def live(scene: Scene) -> None:
    await scene.apply(BEFORE)
    first = [stored(ONE, TWO, Modality="CT"), completed(ONE, TWO, Modality="CT")]
    await scene.take(*first, stored(THREE, Modality="CT"), completed(ONE, TWO, THREE, version=2, Modality="CT"))


def found(scene: Scene, row: Any, name: str) -> str:
    with scene.objects.open(f"{row.results}/{name}") as file:
        return gzip.decompress(file.read()).decode()


async def test_history_is_kept_and_replayed(scene: Scene, database_url: str) -> None:
    await live(scene)
    runner = replays(scene, database_url)
    row = await over(scene, await runner.begin(AFTER, None, SINCE, UNTIL, 1, "me"))
    assert (row.state, row.problem, row.studies_done, row.studies_total) == ("done", None, 1, 1)
    report = json.loads(found(scene, row, REPORT))
    assert (report["studies"], report["changed_studies"]) == (1, 1)
    assert {(one["destination"], one["change"], one["before"], one["after"]) for one in report["changes"]} == {
        ("pacs", "priority", "routine", "stat"),
        ("telerad", "gained", "", "stat"),
    }
    assert {
        (one["destination"], one["instances_before"], one["instances_after"]) for one in report["destinations"]
    } == {
        ("pacs", 3, 3),
        ("telerad", 0, 3),
    }
    (line,) = csv.DictReader(found(scene, row, CHANGES).splitlines())
    assert (line["tenant"], line["study"], line["gained"]) == (TENANT, STUDY, "telerad")
    same = await over(scene, await runner.begin(BEFORE, None, SINCE, UNTIL, 1, "me"))
    assert json.loads(found(scene, same, REPORT))["changed_studies"] == 0
    against = await over(scene, await runner.begin(AFTER, AFTER, SINCE, UNTIL, 1, "me"))
    assert json.loads(found(scene, against, REPORT))["changed_studies"] == 0
    await runner.close()


async def test_one_runs_at_a_time_and_a_person_can_give_it_up(scene: Scene, database_url: str) -> None:
    runner = replays(scene, database_url)
    replay = await runner.begin(AFTER, None, SINCE, UNTIL, 1, "me")
    with pytest.raises(BusyError) as busy:
        await replays(scene, database_url).begin(AFTER, None, SINCE, UNTIL, 1, "other")
    assert busy.value.replay == replay
    await runner.cancel(replay)
    assert (await over(scene, replay)).state == "cancelled"
    await runner.close()
    async with scene.database.reading() as tx:
        row = await replay_rows.find(tx, replay)
    assert (row.state, row.results) == ("cancelled", None)  # type: ignore[union-attr]  # it was found before


async def test_one_that_takes_too_long_is_ended_and_says_so(scene: Scene, database_url: str) -> None:
    await live(scene)
    runner = replays(scene, database_url, longest=0.01)
    row = await over(scene, await runner.begin(AFTER, None, SINCE, UNTIL, 1, "me"))
    assert row.state == "failed"
    assert "longer than" in row.problem
    await runner.close()


async def test_what_only_the_proposal_reads_is_read_from_the_headers(
    scene: Scene, database_url: str, tmp_path: Path
) -> None:
    await live(scene)
    when = 'instance.private("SIEMENS CSA HEADER", "0029,10") == "right block"'
    header = {
        "00290011": {"vr": "LO", "Value": ["SIEMENS CSA HEADER"]},
        "00291110": {"vr": "LO", "Value": ["right block"]},
    }
    order = Order(
        database_url=SecretStr(database_url),
        since=SINCE,
        until=UNTIL,
        proposed=definition(rule("all"), rule("private", "telerad", when=when)),
        folder=tmp_path,
        objects_url=SecretStr(f"file://{tmp_path / 'objects'}"),
    )
    worker = Worker(order)
    for bound, kept in ((0, False), (5, False), (5, True)):
        if kept:
            documents = {ONE.sop_instance_uid: header, TWO.sop_instance_uid: {}, THREE.sop_instance_uid: header}
            put_headers(scene.objects, "headers/1.json.gz", documents)
        seen = await worker.slice(0, (SINCE, 0), (UNTIL, 0), bound)
        assert (seen.studies, seen.unread, seen.gone) == (1, int(bound == 0), int(bound > 0 and not kept))
        assert (seen.reread, seen.uncertain) == (int(kept), int(not kept))
        assert seen.destinations["pacs"].after.instances == 3
        telerad = seen.destinations.get("telerad")
        assert (0 if telerad is None else telerad.after.instances) == (2 if kept else 0)
    await worker.close()


async def killed(scene: Scene, database_url: str, which: Callable[[psutil.Process], bool]) -> Any:
    """Kill a process of a replay as soon as there is one; give what became of the replay."""
    runner = replays(scene, database_url)
    before = {one.pid for one in psutil.Process().children(recursive=True)}
    begun = await runner.begin(AFTER, None, SINCE, UNTIL, 1, "me")
    victim = None
    while victim is None:
        await asyncio.sleep(0.01)
        mine = [one for one in psutil.Process().children(recursive=True) if one.pid not in before]
        victim = next((one for one in mine if which(one)), None)
    victim.kill()
    row = await over(scene, begun)
    await runner.close()
    left = [one for one in psutil.Process().children(recursive=True) if one.pid not in before and "rules" in said(one)]
    assert left == []
    return row


def said(process: psutil.Process) -> str:
    with suppress(psutil.Error):
        return " ".join(process.cmdline())
    return ""


@pytest.mark.parametrize(
    ("which", "problem"),
    [("services.rules.replaying", "-9"), ("spawn_main", "ended from outside")],
    ids=["the whole", "a worker"],
)
async def test_one_that_is_killed_says_so_and_harms_nothing(tmp_path: Path, which: str, problem: str) -> None:
    scene = await make_scene(tmp_path)
    await live(scene)
    row = await killed(scene, f"sqlite:///{tmp_path / 'db'}", lambda one: which in said(one))
    assert (row.state, row.results) == ("failed", None)
    assert problem in row.problem
    async with scene.database.reading() as tx:
        assert await history.count(tx, SINCE, UNTIL) == 1
    await scene.database.close()


async def test_one_whose_results_find_no_room_says_so(tmp_path: Path) -> None:
    scene = await make_scene(tmp_path)
    await live(scene)
    await scene.database.close()
    folder = tmp_path / "results"
    folder.mkdir()
    (folder / CHANGES).symlink_to("/dev/full")
    url = SecretStr(f"sqlite:///{tmp_path / 'db'}")
    order = Order(database_url=url, since=SINCE, until=UNTIL, proposed=AFTER, folder=folder, workers=1)
    process = [sys.executable, "-m", "services.rules.replaying"]
    done = await asyncio.to_thread(subprocess.run, process, input=order.line(), capture_output=True, check=False)
    assert done.returncode == 1
    assert "no room" in json.loads(done.stdout.splitlines()[-1])["problem"]


async def test_one_whose_process_is_gone_is_seen_to_be_over(scene: Scene, database_url: str) -> None:
    values = dict.fromkeys(("studies_done", "studies_total"), 0) | {
        "id": "a",
        "asked_at": NOW,
        "asked_by": "me",
        "state": "running",
        "since": SINCE,
        "until": UNTIL,
        "against": "recorded",
        "network_version": 1,
        "alive_at": NOW - timedelta(hours=1),
    }
    async with scene.database.transaction() as tx:
        await replay_rows.begin(tx, values, NOW)
    runner = replays(scene, database_url)
    async with scene.database.reading() as tx:
        row = await replay_rows.find(tx, "a")
    assert row is not None
    assert runner.state(row) == ("failed", "the process that ran it ended")
    begun = await runner.begin(AFTER, None, SINCE, UNTIL, 1, "me")
    assert (await over(scene, begun)).state == "done"
    await runner.close()


async def test_history_is_cut_into_slices_without_gaps_and_forgotten_in_time(scene: Scene) -> None:
    made = chronicle.Record((), {})
    async with scene.database.transaction() as tx:
        for number in range(1, 8):
            study = await _study(tx, number)
            # Several were decided at the same moment.
            await history.keep(tx, study, NOW + timedelta(minutes=number // 3), made)
    cut = [piece async for piece in slices(scene.database, NOW, UNTIL, 2)]
    assert [count for _, _, count in cut] == [2, 2, 2, 1]
    pages = []
    for after, until, _ in cut:
        async with scene.database.reading() as tx:
            pages.append([one.study_instance_uid for one in await history.page(tx, after, until, 10)])
    assert pages == [["1.1", "1.2"], ["1.3", "1.4"], ["1.5", "1.6"], ["1.7"]]
    async with scene.database.reading() as tx:
        assert await history.count(tx, NOW, NOW + timedelta(minutes=1)) == 2
    async with scene.database.transaction() as tx:
        assert await history.prune(tx, NOW + timedelta(minutes=2)) == 5
    async with scene.database.transaction() as tx:
        assert await history.prune(tx, NOW + timedelta(minutes=2)) == 0


async def test_the_definitions_of_the_time_are_kept(scene: Scene) -> None:
    async with scene.database.transaction() as tx:
        await history.keep_definition(tx, 3, BEFORE)
        await history.keep_definition(tx, 3, AFTER)
    async with scene.database.reading() as tx:
        kept = await history.definition_of(tx, 3)
        assert await history.definition_of(tx, 4) is None
    assert kept is not None
    assert Definition.model_validate_json(kept) == BEFORE


async def _study(tx: Any, number: int) -> int:
    study = await repository.open_study(tx, TENANT, f"1.{number}", "malabo")
    return study.id
