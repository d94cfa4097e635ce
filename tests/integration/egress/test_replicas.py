"""Replicas that are killed, and replicas that share one database."""

import asyncio
import subprocess
import sys
import threading
from collections import Counter
from pathlib import Path

import pytest

from services.egress.calls import lock_circuit
from services.egress.claim import parcel_of
from services.egress.journal import Journal
from services.egress.outcome import Outcome, Verdict
from tests.integration.egress.peer import receiver
from tests.integration.egress.stand import QUICK, Stand, archive, stand
from tests.support.migrated import migrate
from tests.support.postgresql import PostgreSQL
from tests.support.synthetic import make_study

pytestmark = [pytest.mark.integration, pytest.mark.crash]
BRIEF = QUICK.model_copy(update={"lease": 2})


@pytest.mark.parametrize(("database", "kills"), [("sqlite", 2), ("postgresql", 1)])
async def test_kill_9_amid_a_delivery_loses_nothing(
    tmp_path: Path, postgresql: PostgreSQL, database: str, kills: int
) -> None:
    url = f"sqlite://{tmp_path / 'db'}" if database == "sqlite" else postgresql.database()
    paths = make_study(tmp_path, 60)
    seen = threading.Semaphore(0)

    def answer(_uid: str) -> int:
        seen.release()
        return 0

    with receiver(answer) as peer:
        async with stand(tmp_path, None, BRIEF, database_url=url) as egress:
            await egress.request(egress.keep(paths))
        for run in range(kills):
            command = [sys.executable, "-m", "tests.integration.egress.replica", url, str(tmp_path), str(peer.port)]
            with subprocess.Popen([*command, f"killed-{run}"]) as replica:  # noqa: ASYNC220 - it is killed below
                for _ in range(12):
                    assert await asyncio.to_thread(seen.acquire, timeout=60)
                replica.kill()
        async with stand(tmp_path, archive(peer.port), BRIEF, database_url=url) as egress:
            await egress.until_state("done")
            assert len(await egress.events("delivery.completed")) == 1
            assert {item.state for item in await egress.items()} == {"sent"}
    times = Counter(peer.received)
    assert set(times) == {path.stem for path in paths}
    # Each kill costs at most what was answered since the last record.
    assert sum(times.values()) - len(times) <= kills * QUICK.record_items


async def test_two_replicas_share_a_destination_and_send_nothing_twice(tmp_path: Path, postgresql: PostgreSQL) -> None:
    url = postgresql.database()
    studies = [make_study(tmp_path, 4, study_uid=f"1.2.{n}") for n in range(12)]
    with receiver() as peer:
        snapshot = archive(peer.port, destination={"associations": 2})
        async with (
            stand(tmp_path, snapshot, database_url=url, name="one") as one,
            stand(tmp_path, snapshot, database_url=url, name="two") as two,
        ):
            for n, paths in enumerate(studies):
                await (one, two)[n % 2].request(one.keep(paths), study=f"1.2.{n}")

            async def all_done() -> bool:
                return len(await one.events("delivery.completed")) == len(studies)

            await asyncio.wait(
                [asyncio.create_task(each.until(all_done)) for each in (one, two)],
                return_when=asyncio.FIRST_COMPLETED,
            )
            assert await all_done()
    assert sorted(peer.received) == sorted(path.stem for paths in studies for path in paths)
    assert peer.most_associations <= 2


async def test_a_destination_that_another_replica_has_in_hand_is_left_to_it(
    tmp_path: Path, postgresql: PostgreSQL
) -> None:
    url = postgresql.database()
    async with stand(tmp_path, None, database_url=url) as egress:
        async with egress.database.transaction() as first:
            await lock_circuit(first, "archive", wait=True)
        async with egress.database.transaction() as mine, egress.database.transaction() as theirs:
            assert await lock_circuit(mine, "archive", wait=True) is not None
            assert await lock_circuit(theirs, "archive", wait=False) is None


async def test_a_sender_that_broke_off_sends_when_it_is_started_again(tmp_path: Path) -> None:
    with receiver() as peer:
        made = Stand(f"sqlite://{tmp_path / 'db'}", tmp_path, archive(peer.port))
        await migrate(made.database, "services.egress")
        await made.network.refresh()
        for _ in range(2):
            running = asyncio.create_task(made.sender.run())
            # Past its start, so that it has something to give up when it ends.
            await made.request(made.keep(make_study(tmp_path, 1)), expected=2)
            await made.until_state("open", "waiting")
            running.cancel()
            await asyncio.gather(running, return_exceptions=True)
        again = asyncio.create_task(made.sender.run())
        await made.request(made.keep(make_study(tmp_path, 2, study_uid="1.2.4")), study="1.2.4")
        await made.until_state("done", study="1.2.4")
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)
        await made.database.close()


@pytest.mark.parametrize("status", ["0000", "written"])
async def test_what_a_killed_process_was_told_is_written_down_by_the_next(tmp_path: Path, status: str) -> None:
    with receiver() as peer:
        async with stand(tmp_path, None) as egress:
            kept = egress.keep(make_study(tmp_path, 3))
            await egress.request(kept)
            first, delivery = (await egress.items())[0], await egress.delivery()
        assert delivery is not None
        journal = Journal(tmp_path / "journal", "killed")
        journal.note(parcel_of(delivery, first, 0), Outcome(first.id, Verdict.SENT, status))
        journal.close()
        async with stand(tmp_path, archive(peer.port)) as egress:
            await egress.until_state("done")
            assert [each.status for each in await egress.items()] == [status, "0000", "0000"]
    assert sorted(peer.received) == sorted(each.sop_instance_uid for each in kept[1:])
