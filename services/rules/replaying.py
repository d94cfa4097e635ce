"""One replay of the history, in a process of its own with its workers: `python -m services.rules.replaying`.

It reads one `Order` as a line of JSON, and writes lines of JSON: how far it is, and at last that it is done. Nothing
in it is urgent: it runs at the lowest priority, reads the history in small pages that hold no lock, and ends when
nobody listens any more.
"""

import asyncio
import csv
import errno
import gc
import gzip
import json
import os
import sys
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import closing
from datetime import datetime, timedelta
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final, Literal, TextIO

from pydantic import AwareDatetime, BaseModel, SecretStr

from contracts.definition import Definition
from libs.definition.ruleset import RuleSet
from libs.storage.database import Database
from libs.storage.objects import StoreUnavailableError, open_store
from libs.telemetry import log
from services.rules import history, transcript
from services.rules.chronicle import Record
from services.rules.findings import Change, Findings, report
from services.rules.history import Place, Recorded
from services.rules.recall import missing, recalled
from services.rules.simulation import Simulation, left_out

#: Studies that a worker takes in hand at a time.
SLICE: Final = 2000
#: Studies that are read at a time.
_PAGE: Final = 250
#: Of the scheduler: the lowest, so that whatever else is to be done goes first.
_NICE: Final = 19
#: New objects of a worker between two collections of garbage.
_RARELY: Final = 50_000
CHANGES: Final = "changes.csv.gz"
REPORT: Final = "report.json.gz"
COLUMNS: Final = (
    "tenant",
    "study",
    "site",
    "decided_at",
    "before",
    "after",
    "gained",
    "lost",
    "other",
    "instances",
    "bytes",
)
#: What a proposal is compared with: what was recorded, or what the rules in force would do with the same.
Against = Literal["recorded", "in-force"]


class Order(BaseModel):
    """What is to be replayed.

    Attributes
    ----------
    database_url
        Where the tables of rules are; it may hold a password, so it comes by a pipe.
    since, until
        Studies whose last version was decided from the one up to the other.
    proposed
        The definition to try.
    in_force
        The definition to compare it with; none: what was recorded.
    folder
        Where the results go.
    workers
        Number of processes.
    objects_url
        Where header documents are; it may hold a secret.
    most_headers
        Of how many studies, about, header documents are read for what is not recorded.
    """

    database_url: SecretStr
    since: AwareDatetime
    until: AwareDatetime
    proposed: Definition
    in_force: Definition | None = None
    folder: Path
    workers: int = 2
    objects_url: SecretStr | None = None
    most_headers: int = 0

    def line(self) -> bytes:
        """Write it for the process."""
        data = self.model_dump(mode="json", by_alias=True, exclude={"database_url", "objects_url"})
        objects = None if self.objects_url is None else self.objects_url.get_secret_value()
        secret = {"database_url": self.database_url.get_secret_value(), "objects_url": objects}
        return json.dumps({**data, **secret}).encode() + b"\n"


class Worker:
    """Replays slices, in one process.

    Parameters
    ----------
    order
        The replay.
    """

    def __init__(self, order: Order) -> None:
        self._order = order
        self._database = Database(order.database_url.get_secret_value(), "rules")
        self._proposed = Simulation(RuleSet(order.proposed))
        self._in_force = None if order.in_force is None else Simulation(RuleSet(order.in_force))
        self._objects = None if order.objects_url is None else open_store(order.objects_url.get_secret_value())
        self._beyond = self._proposed.beyond | (frozenset() if self._in_force is None else self._in_force.beyond)

    async def slice(self, number: int, after: Place, until: Place, headers: int) -> Findings:
        """Replay the studies behind one place up to another; what changes goes to a file of its own.

        Parameters
        ----------
        number
            Of the file.
        after, until
            The places.
        headers
            Of how many studies header documents may be read.
        """
        found = Findings()
        with part(self._order.folder, number).open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            async for one in self._pages(after, until):
                made = transcript.from_json(one.record)
                if self._beyond and (wanted := missing(made, self._beyond)):
                    made = await self._recalled(one, made, wanted, found, headers)
                self._study(one, made, found, writer)
        return found

    async def close(self) -> None:
        """Close the database."""
        await self._database.close()

    async def _pages(self, after: Place, until: Place) -> AsyncIterator[Recorded]:
        while True:
            async with self._database.reading() as tx:
                page = await history.page(tx, after, until, _PAGE)
            for one in page:
                yield one
            if len(page) < _PAGE:
                return
            after = page[-1].decided_at, page[-1].study_id

    async def _recalled(
        self, one: Recorded, made: Record, wanted: frozenset[str], found: Findings, headers: int
    ) -> Record:
        if self._objects is None or found.reread + found.gone >= headers:
            found.unread += 1
            return made
        async with self._database.reading() as tx:
            more = await recalled(tx, self._objects, one, made, wanted)
        if more is None:
            found.gone += 1
            return made
        found.reread += 1
        return more

    def _study(self, one: Recorded, made: Record, found: Findings, writer: Any) -> None:
        last, site = made.versions[-1], made.versions[0].source.site
        before = made.routes if self._in_force is None else self._in_force.outcome(one.tenant, made).routes
        outcome = self._proposed.outcome(one.tenant, made)
        changed = found.add(one.study_instance_uid, site, last.size, before, outcome)
        if changed:
            writer.writerow(
                (
                    *(one.tenant, one.study_instance_uid, site, one.decided_at.isoformat()),
                    *(" ".join(sorted(before)), " ".join(sorted(outcome.routes))),
                    *(_those(changed, "gained"), _those(changed, "lost"), _other(changed)),
                    *(last.count, last.size),
                )
            )


def _those(changed: list[Change], what: str) -> str:
    return " ".join(one.destination for one in changed if one.what == what)


def _other(changed: list[Change]) -> str:
    return "; ".join(
        f"{one.destination}: {one.what} {one.before} -> {one.after}"
        for one in changed
        if one.what not in ("gained", "lost")
    )


def part(folder: Path, number: int) -> Path:
    """Give the file with the changes of one slice."""
    return folder / f"part-{number:07}.csv"


async def slices(
    database: Database, since: datetime, until: datetime, count: int = SLICE
) -> AsyncIterator[tuple[Place, Place, int]]:
    """Cut the history into slices: behind which place, up to which, and how many studies."""
    after: Place = (since - timedelta(microseconds=1), sys.maxsize)
    while True:
        async with database.reading() as tx:
            found = await history.step(tx, after, until, count)
        if found is None:
            return
        place, size = found
        yield after, place, size
        after = place


async def replay(order: Order, say: TextIO) -> Findings:
    """Replay, with progress as lines of JSON; the results are files in the folder."""
    database = Database(order.database_url.get_secret_value(), "rules")
    found = Findings()
    try:
        async with database.reading() as tx:
            total = await history.count(tx, order.since, order.until)
        _say(say, done=0, total=total)
        with (
            ProcessPoolExecutor(order.workers, get_context("spawn"), _begin, (order.line(),)) as pool,
            closing(gzip.open(order.folder / CHANGES, "wt", encoding="utf-8", newline="")) as changes,
        ):
            csv.writer(changes).writerow(COLUMNS)
            waiting: deque[tuple[int, Future[Findings]]] = deque()
            cut = slices(database, order.since, order.until)
            more = True
            number = 0
            while more or waiting:
                while more and len(waiting) < 2 * order.workers:
                    piece = await anext(cut, None)
                    if piece is None:
                        more = False
                        break
                    headers = max(0, order.most_headers - found.reread - found.gone)
                    waiting.append((number, pool.submit(_slice, number, piece[0], piece[1], headers)))
                    number += 1
                if waiting:
                    done, future = waiting.popleft()
                    found.absorb(await asyncio.wrap_future(future))
                    _append(part(order.folder, done), changes)
                    _say(say, done=found.studies, total=max(total, found.studies))
    finally:
        await database.close()
    with gzip.open(order.folder / REPORT, "wt", encoding="utf-8") as file:
        file.write(json.dumps({**report(found), "not_replayed": left_out(order.proposed)}))
    return found


def _append(piece: Path, changes: TextIO) -> None:
    with piece.open(encoding="utf-8", newline="") as file:
        changes.writelines(file)
    piece.unlink()


def _say(say: TextIO, **what: int | str) -> None:
    say.write(json.dumps(what) + "\n")
    say.flush()


#: The worker of this process, and the loop in which it lives.
_STATE: Final[dict[str, Any]] = {}


def _begin(line: bytes) -> None:
    log.configure()
    # What a worker remembers is no garbage, and looking it through again and again is an eighth of the time.
    gc.set_threshold(_RARELY, 20, 50)
    _STATE["runner"] = asyncio.Runner()
    _STATE["worker"] = Worker(Order.model_validate_json(line))


def _slice(number: int, after: Place, until: Place, headers: int) -> Findings:
    worker: Worker = _STATE["worker"]
    found: Findings = _STATE["runner"].run(worker.slice(number, after, until, headers))
    return found


def _broken(problem: str) -> int:
    _say(sys.stdout, problem=problem)
    return 1


def main() -> int:
    """Run one replay."""
    # Also what goes unhandled is told without values from then on.
    log.configure()
    os.nice(_NICE)
    order = Order.model_validate_json(sys.stdin.buffer.readline())
    try:
        found = asyncio.run(replay(order, sys.stdout))
    except BrokenPipeError:
        # Nobody listens any more: the service ended, or a person gave it up.
        return 1
    except BrokenProcessPool:
        return _broken("one of its processes was ended from outside, perhaps for want of memory")
    except StoreUnavailableError:
        return _broken("the object store, where the header documents are, does not answer")
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        return _broken("there is no room for what it finds in the folder for temporary files (TMPDIR)")
    _say(sys.stdout, done=found.studies, total=found.studies, finished=1)
    return 0


if __name__ == "__main__":
    sys.exit(main())
