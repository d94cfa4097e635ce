"""Replays that people ask for: begun, watched and ended from here, each in a process of its own."""

import asyncio
import json
import os
import signal
import sys
import tempfile
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from pydantic import SecretStr
from sqlalchemy import Row

from contracts.definition import Definition
from libs.clock import Clock
from libs.messaging.listen import DATABASE_AWAY
from libs.storage.database import Database
from libs.storage.objects import ObjectStore, StoreFullError, StoreUnavailableError
from libs.telemetry import log
from services.rules import replay_rows
from services.rules.replaying import CHANGES, REPORT, Against, Order

#: Results that are kept, those of the latest replays.
_KEPT: Final = 20
#: Longest line of progress.
_LINE: Final = 1 << 16
#: How often it is noted how far a replay is.
_OFTEN_S: Final = 1.0
_LOG = log.get(__name__)


class BusyError(Exception):
    """Another replay is running."""

    def __init__(self, replay: str) -> None:
        super().__init__(f"replay {replay} is running")
        self.replay = replay


class _EndedError(Exception):
    """A replay could not be carried out; the message says why, without values."""


def _problem(error: Exception) -> str:
    if isinstance(error, _EndedError):
        return str(error)
    if isinstance(error, StoreFullError):
        return "there is no room for what it found in the object store"
    return f"it broke off ({type(error).__name__})"


class Replays:
    """Runs one replay at a time.

    Parameters
    ----------
    database, objects
        Of rules.
    database_url
        Where the process of a replay reads.
    processes
        How many processes evaluate.
    longest
        Seconds after which a replay is ended.
    clock
        The time in UTC.
    objects_url, most_headers
        Where its process reads header documents, and of how many studies.
    """

    def __init__(
        self,
        database: Database,
        objects: ObjectStore,
        *,
        database_url: str,
        processes: int,
        longest: float,
        clock: Clock,
        objects_url: str | None = None,
        most_headers: int = 0,
    ) -> None:
        self._database = database
        self._objects = objects
        self._url = database_url
        self._processes = processes
        self._longest = longest
        self._objects_url = None if objects_url is None else SecretStr(objects_url)
        self._most_headers = most_headers
        self._clock = clock
        self._tasks: set[asyncio.Task[None]] = set()

    async def begin(
        self,
        proposed: Definition,
        in_force: Definition | None,
        since: datetime,
        until: datetime,
        network_version: int,
        asked_by: str,
    ) -> str:
        """Begin a replay; give its id. Raises BusyError."""
        replay = uuid4().hex
        now = self._clock()
        against: Against = "recorded" if in_force is None else "in-force"
        values = {
            "id": replay,
            "asked_at": now,
            "asked_by": asked_by,
            "state": "running",
            "since": since,
            "until": until,
            "against": against,
            "network_version": network_version,
            "studies_done": 0,
            "studies_total": 0,
            "alive_at": now,
        }
        async with self._database.transaction() as tx:
            running = await replay_rows.begin(tx, values, now)
        if running is not None:
            raise BusyError(running.id)
        task = asyncio.create_task(self._run(replay, proposed, in_force, since, until))
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return replay

    async def cancel(self, replay: str) -> None:
        """Give a replay up, whichever replica runs it: that one sees it within a second."""
        async with self._database.transaction() as tx:
            await replay_rows.end(tx, replay, "cancelled")

    async def close(self) -> None:
        """End what is running here."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def state(self, row: Row[object]) -> tuple[str, str | None]:
        """Give the state of a replay and what is wrong, as of now."""
        if row.state == "running" and row.alive_at <= self._clock() - replay_rows.SILENCE:
            return "failed", "the process that ran it ended"
        return row.state, row.problem

    def _ended(self, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _LOG.error("a replay broke off inside", exc_info=error)

    async def _run(
        self, replay: str, proposed: Definition, in_force: Definition | None, since: datetime, until: datetime
    ) -> None:
        state, problem, results = "failed", None, None
        with tempfile.TemporaryDirectory(prefix="kivuko-replay-", ignore_cleanup_errors=True) as name:
            folder = Path(name)
            order = Order(
                database_url=SecretStr(self._url),
                since=since,
                until=until,
                proposed=proposed,
                in_force=in_force,
                folder=folder,
                workers=self._processes,
                objects_url=self._objects_url,
                most_headers=self._most_headers,
            )
            try:
                async with asyncio.timeout(self._longest):
                    await self._watch(replay, order)
                results = f"rules/replays/{replay}"
                await asyncio.to_thread(self._keep, results, folder)
                state = "done"
            except TimeoutError:
                problem = f"it took longer than {self._longest:.0f} s: choose a shorter time"
            except asyncio.CancelledError:
                problem = "the service was stopped while it ran"
                raise
            except (_EndedError, StoreUnavailableError, StoreFullError, *DATABASE_AWAY) as error:
                problem = _problem(error)
                _LOG.warning("a replay broke off", reason=problem)
            finally:
                with suppress(*DATABASE_AWAY):  # then it is seen to be silent
                    async with self._database.transaction() as tx:
                        kept = await replay_rows.end(tx, replay, state, problem, results if state == "done" else None)
                    if state == "done" and not kept and results is not None:
                        await asyncio.to_thread(self._remove, results)
        await self._forget()

    async def _watch(self, replay: str, order: Order) -> None:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.rules.replaying"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LINE,
            # Its workers end with it.
            start_new_session=True,
        )
        try:
            if process.stdin is None or process.stdout is None:
                raise _EndedError("its process has no pipes")
            with suppress(ConnectionError):  # it ended before it read: what it ended with says more
                process.stdin.write(order.line())
                await process.stdin.drain()
            process.stdin.close()
            said: dict[str, Any] = {"done": 0, "total": 0}
            noted = 0.0
            loop = asyncio.get_running_loop()
            while True:
                try:
                    async with asyncio.timeout(_OFTEN_S):
                        line = await process.stdout.readline()
                except TimeoutError:
                    line = None
                if line == b"":
                    break
                if line is not None:
                    said = {**said, **json.loads(line)}
                if line is None or loop.time() - noted >= _OFTEN_S:
                    noted = loop.time()
                    await self._note(replay, said)
            await self._note(replay, said)
            if await process.wait() != 0 or "finished" not in said:
                raise _EndedError(said.get("problem") or f"its process ended with {process.returncode}: see the log")
        finally:
            if process.returncode != 0:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()

    async def _note(self, replay: str, said: dict[str, Any]) -> None:
        async with self._database.transaction() as tx:
            wanted = await replay_rows.progress(tx, replay, said["done"], said["total"], self._clock())
        if not wanted:
            raise _EndedError("a person gave it up")

    def _keep(self, results: str, folder: Path) -> None:
        for name in (CHANGES, REPORT):
            with (folder / name).open("rb") as file:
                self._objects.put(f"{results}/{name}", file)

    def _remove(self, results: str) -> None:
        for name in (CHANGES, REPORT):
            self._objects.delete(f"{results}/{name}")

    async def _forget(self) -> None:
        """Remove the results of old replays."""
        async with self._database.reading() as tx:
            old = await replay_rows.latest(tx, _KEPT, skip=_KEPT)
        for row in old:
            if row.results is not None:
                await asyncio.to_thread(self._remove, row.results)
            async with self._database.transaction() as tx:
                await replay_rows.forget(tx, row.id)
