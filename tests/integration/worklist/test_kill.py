"""Whatever kills the process, and whenever: a step that was answered with success is there, with its events."""

import json
import os
import random
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from libs.storage.database import Database
from services.worklist.models import messaging, mpps, mpps_messages
from tests.integration.worklist.modality import Modality
from tests.support.postgresql import PostgreSQL
from tests.unit.worklist.performed import MPPS, created, ended

pytestmark = pytest.mark.integration
#: More in `make soak`.
KILLS = int(os.environ.get("KIVUKO_TEST_KILLS", "2"))


def start(home: Path, version: int, database_url: str | None) -> tuple["subprocess.Popen[str]", int]:
    command = [sys.executable, "-m", "tests.integration.worklist.victim", str(home), str(version)]
    command += [database_url] if database_url else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    word, port = process.stdout.readline().split()
    assert word == "port"
    return process, int(port)


class Shift:
    """A modality that reports step after step until nobody answers, and remembers what was answered with success."""

    def __init__(self) -> None:
        self.created: set[str] = set()
        self.ended: set[str] = set()
        self.enough = threading.Event()

    def work(self, port: int, kill: int, least: int) -> None:
        with Modality(port) as ct:
            for number in range(100_000):
                uid = f"{MPPS}.{kill}.{number}"
                status, _ = ct.create(created(), uid)
                if "Status" not in status:
                    return
                assert status.Status == 0
                self.created.add(uid)
                status, _ = ct.set(ended(), uid)
                if "Status" not in status:
                    return
                assert status.Status == 0
                self.ended.add(uid)
                if number >= least:
                    self.enough.set()


@pytest.mark.parametrize("kind", ["sqlite", "postgresql"])
async def test_every_success_survives_sigkill(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    url: str | None = None
    if kind == "postgresql":
        server: PostgreSQL = request.getfixturevalue("postgresql")
        url = server.database()
    shift = Shift()
    chance = random.Random(6)
    for kill in range(KILLS):
        process, port = start(tmp_path, kill + 1, url)
        try:
            shift.enough.clear()
            worker = threading.Thread(target=shift.work, args=(port, kill, chance.randint(1, 6)))
            worker.start()
            assert shift.enough.wait(60)
        finally:
            process.kill()
            process.wait()
        worker.join(60)
        assert not worker.is_alive()
    database = Database(url or f"sqlite:///{tmp_path / 'db'}", "worklist")
    try:
        states, kept, told = await look(database)
    finally:
        await database.close()
    assert len(shift.ended) > KILLS
    assert shift.created <= set(states)
    assert {uid for uid in shift.ended if states[uid] != "completed"} == set()
    # What is kept is kept whole: its requests and its events, neither more nor fewer.
    for uid, state in states.items():
        assert kept[uid] == (2 if state == "completed" else 1)
        assert told[uid] == (["started", "completed"] if state == "completed" else ["started"])


async def look(database: Database) -> tuple[dict[str, str], dict[str, int], dict[str, list[str]]]:
    async with database.reading() as tx:
        rows = (await tx.execute(select(mpps))).all()
        states = {row.sop_instance_uid: row.state for row in rows}
        uids = {row.id: row.sop_instance_uid for row in rows}
        kept = dict.fromkeys(states, 0)
        for mpps_id in await tx.scalars(select(mpps_messages.c.mpps_id)):
            kept[uids[mpps_id]] += 1
        told: dict[str, list[str]] = {uid: [] for uid in states}
        bodies: list[Any] = list(await tx.scalars(select(messaging.outbox.c.body).order_by(messaging.outbox.c.id)))
        for event in map(json.loads, bodies):
            told[event["data"]["mpps_instance_uid"]].append(event["type"].split(".")[2])
    return states, kept, told
