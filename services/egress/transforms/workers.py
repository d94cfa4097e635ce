"""The transform workers of this process: a few, started when they are needed, killed and replaced when they hang."""

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from typing import Any, Final

from libs.telemetry import log
from services.egress.transforms.errors import UntransformableError
from services.egress.transforms.job import Done, Job, asked, read_answer

#: One thread a worker: their number is what says how many cores transforms may have.
_ENVIRONMENT: Final = {"MALLOC_ARENA_MAX": "1", "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
_START: Final = 30.0
#: Seconds without a job after which a worker ends.
_IDLE: Final = 60.0
#: Longest answer: a dataset with many changes.
_LONGEST: Final = 1 << 26
_log = log.get(__name__)


class WorkerLostError(Exception):
    """A worker ended or was killed before it had an answer: another try may succeed. The text is for people."""

    safe_to_log = True


class NoRoomError(Exception):
    """A file could not be written. The text says why."""

    safe_to_log = True


class Workers:
    """Does jobs, a number of them at a time; the others wait for their turn.

    Parameters
    ----------
    number
        Processes at a time.
    memory
        Bytes of memory that each may have.
    seconds
        How long one job may take.
    """

    def __init__(self, number: int, memory: int, seconds: float) -> None:
        self._turn = asyncio.Semaphore(number)
        self._memory = memory
        self._seconds = seconds
        self._idle: list[tuple[asyncio.subprocess.Process, asyncio.TimerHandle]] = []
        self._busy: set[asyncio.subprocess.Process] = set()

    async def do(self, job: Job) -> Done:
        """Transform a file.

        Raises
        ------
        UntransformableError
            It can't be done, and never will.
        WorkerLostError, NoRoomError
            It could not be done now.
        """
        async with self._turn, self._process() as process:
            assert process.stdin is not None and process.stdout is not None  # noqa: S101, PT018 (both are pipes)
            try:
                async with asyncio.timeout(self._seconds):
                    process.stdin.write(asked(job))
                    await process.stdin.drain()
                    line = await process.stdout.readline()
            except TimeoutError as error:
                raise WorkerLostError(
                    f"its transform took longer than {self._seconds:g} s and was stopped"
                    " (KIVUKO_EGRESS_TRANSFORM_SECONDS)"
                ) from error
            except (ConnectionError, ValueError) as error:
                raise WorkerLostError("the process that transformed it ended before it was done") from error
            if not line.endswith(b"\n"):
                raise WorkerLostError("the process that transformed it ended before it was done")
        said: dict[str, Any] = json.loads(line)
        if said.get("problem") == "room":
            raise NoRoomError(f"no file can be written for a transform ({said['reason']})")
        if "problem" in said:
            raise UntransformableError(said["reason"])
        return read_answer(said)

    async def stop(self) -> None:
        """End all of them, now, and wait until they are gone."""
        for _, timer in self._idle:
            timer.cancel()
        ended = [*(process for process, _ in self._idle), *self._busy]
        self._idle.clear()
        for process in ended:
            self._kill(process)
        await asyncio.gather(*(process.wait() for process in ended))

    @asynccontextmanager
    async def _process(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """Give a process; one whose job did not come to its end is not used again."""
        process = None
        while self._idle and process is None:
            known, timer = self._idle.pop()
            timer.cancel()
            process = known if known.returncode is None else None
        process = process or await self._start()
        self._busy.add(process)
        try:
            yield process
        except BaseException:
            self._kill(process)
            await process.wait()
            raise
        else:
            timer = asyncio.get_running_loop().call_later(_IDLE, self._retire, process)
            self._idle.append((process, timer))
        finally:
            self._busy.discard(process)

    async def _start(self) -> asyncio.subprocess.Process:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "services.egress.transforms.worker", str(self._memory)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            limit=_LONGEST,
            env={**os.environ, **_ENVIRONMENT},
        )
        assert process.stdout is not None  # noqa: S101 (it is a pipe)
        line = b""
        with suppress(TimeoutError):
            async with asyncio.timeout(_START):
                line = await process.stdout.readline()
        if not line:
            self._kill(process)
            await process.wait()
            raise WorkerLostError(
                "no process for transforms starts: see whether this machine has memory for it"
                " (KIVUKO_EGRESS_TRANSFORM_MEMORY)"
            )
        return process

    def _retire(self, process: asyncio.subprocess.Process) -> None:
        self._idle = [each for each in self._idle if each[0] is not process]
        if process.stdin is not None:
            process.stdin.close()

    @staticmethod
    def _kill(process: asyncio.subprocess.Process) -> None:
        with suppress(ProcessLookupError):
            process.kill()
