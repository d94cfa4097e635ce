"""`python -m tests.soak.egress [--kills N]`: replicas of egress are killed at random moments under load.

Two replicas share one database and one destination. Whichever is killed is started again at once, as another worker.
Ends with 1 when a delivery is not done in the end, an instance did not arrive or arrived otherwise, or a kill had an
association send again more than the one instance that was under way.
"""

import argparse
import asyncio
import random
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final
from uuid import uuid4

from rich.console import Console
from rich.progress import Progress

from contracts.delivery import DeliveryItem
from libs.storage.migration import migrate
from services.egress import listing
from tests.integration.egress.stand import Stand, archive
from tests.support.dicomset import dataset_bytes
from tests.support.misbehaving import Destination
from tests.support.postgresql import PostgreSQL
from tests.support.process import wait_until
from tests.support.synthetic import make_ct

#: Associations with the destination, of both replicas together.
ASSOCIATIONS: Final = 4
_REPLICAS, _A_STUDY, _BACKLOG = 2, 12, 240
#: A kill comes when so many more instances have arrived, at most.
_BETWEEN: Final = 80
_PATIENCE_S: Final = 120.0


@dataclass
class Found:
    """What became of it.

    Attributes
    ----------
    requested, received
        Instances that were asked for; that came whole, with those that came again.
    repeats
        How many associations had to have so many of their instances sent again in another; 0 is left out.
    faults
        What is amiss, as sentences.
    """

    requested: int = 0
    received: int = 0
    kills: int = 0
    repeats: Counter[int] = field(default_factory=Counter)
    faults: list[str] = field(default_factory=list)


class _Feeder:
    """Hands in studies of which each instance is the same object under another name."""

    def __init__(self, url: str, folder: Path, port: int) -> None:
        self._runner = asyncio.Runner()
        self._stand = self._runner.run(self._made(url, folder, port))
        path = make_ct(folder, rows=64, cols=64)
        [self._item] = self._stand.keep([path])
        self.digest = self._item.content_hash
        assert dataset_bytes(path)
        self.asked: set[str] = set()
        self._studies = 0

    @staticmethod
    async def _made(url: str, folder: Path, port: int) -> Stand:
        made = Stand(url, folder, archive(port), name="feeder")
        await migrate(made.database, "services.egress")
        await made.network.refresh()
        return made

    def feed(self, received: int) -> None:
        """Hand in studies until so many instances are on their way as keep both replicas busy."""
        while len(self.asked) - received < _BACKLOG:
            wanted = [self._another() for _ in range(_A_STUDY)]
            self.asked |= {each.sop_instance_uid for each in wanted}
            self._studies += 1
            self._runner.run(self._stand.request(wanted, study=f"1.2.{self._studies}"))

    def _another(self) -> DeliveryItem:
        return self._item.model_copy(update={"sop_instance_uid": f"2.25.{uuid4().int}"})

    def all_done(self) -> bool:
        """Tell whether every delivery is done."""
        return self._runner.run(self._states()) == {"done": self._studies}

    def left(self) -> dict[str, int]:
        """Count deliveries by state."""
        return self._runner.run(self._states())

    async def _states(self) -> dict[str, int]:
        async with self._stand.database.reading() as tx:
            return {state: number for state, number in (await listing.count_by_state(tx)).items() if number}

    def close(self) -> None:
        self._runner.run(self._stand.database.close())
        self._runner.close()


class _Replica:
    """A process that is killed, and started again under another name."""

    def __init__(self, url: str, folder: Path, port: int) -> None:
        self._arguments = [url, str(folder), str(port)]
        self._start()

    def _start(self) -> None:
        command = [sys.executable, "-m", "tests.integration.egress.replica", *self._arguments, uuid4().hex]
        self._process = subprocess.Popen(command, stderr=subprocess.DEVNULL)

    def kill(self) -> None:
        """Kill it with SIGKILL."""
        if self._process.poll() is not None:
            raise RuntimeError(f"a replica ended by itself, with {self._process.returncode}")
        self._process.kill()
        self._process.wait()

    def restart(self) -> None:
        """Kill it and start it again."""
        self.kill()
        self._start()


def trial(url: str, folder: Path, kills: int, choice: random.Random, told: Callable[[], None] = lambda: None) -> Found:
    """Kill replicas so many times, then see what became of everything."""
    found = Found()
    with Destination() as destination:
        record = destination.record
        feeder = _Feeder(url, folder, destination.port)
        feeder.feed(0)
        replicas = [_Replica(url, folder, destination.port) for _ in range(_REPLICAS)]
        try:
            while found.kills < kills:
                wanted = len(record.received) + choice.randint(1, _BETWEEN)
                while len(record.received) < wanted:
                    feeder.feed(len(record.counts()))
                    some = len(record.received)
                    wait_until(lambda some=some: len(record.received) > some, "instances", _PATIENCE_S)  # type: ignore[misc]
                choice.choice(replicas).restart()
                found.kills += 1
                told()
            wait_until(feeder.all_done, f"every delivery to be done: {feeder.left()}", _PATIENCE_S)
        except TimeoutError as error:
            found.faults.append(f"{error}; deliveries: {feeder.left()}")
        finally:
            for replica in replicas:
                replica.kill()
            feeder.close()
        found.requested, found.received = len(feeder.asked), len(record.received)
        _judge(found, destination, feeder)
    return found


def _judge(found: Found, destination: Destination, feeder: _Feeder) -> None:
    record = destination.record
    missing = feeder.asked - record.confirmed()
    if missing:
        found.faults.append(f"{len(missing)} instances never arrived")
    if set(record.digests()) - feeder.asked:
        found.faults.append("something arrived that nobody asked for")
    if any(digests != {feeder.digest} for digests in record.digests().values()):
        found.faults.append("an instance arrived with other bytes")
    found.faults += record.violations
    if record.most > ASSOCIATIONS:
        found.faults.append(f"{record.most} associations at a time, not {ASSOCIATIONS} at most")
    repeated: Counter[int] = Counter()
    last = {each.sop_uid: each.order for each in record.received}
    for each in record.received:
        repeated[each.association] += each.order < last[each.sop_uid]
    found.repeats = Counter(number for number in repeated.values() if number)
    if max(found.repeats, default=0) > 1:
        found.faults.append(f"a kill cost an association more than the one under way: {dict(found.repeats)}")


def on_postgresql(folder: Path, kills: int, choice: random.Random, told: Callable[[], None] = lambda: None) -> Found:
    """Start a PostgreSQL in the folder, and do the trial on it."""
    folder.chmod(0o755)  # it runs as another user
    server = PostgreSQL(folder / "postgresql")
    server.start()
    try:
        return trial(server.database(), folder, kills, choice, told)
    finally:
        server.kill()


def said(found: Found) -> str:
    """Tell the figures in a line."""
    again = found.received - found.requested
    repeats = {number: found.repeats[number] for number in sorted(found.repeats)}
    return f"{found.kills} kills of egress: {found.requested} instances, {again} came again; by association {repeats}"


def main() -> int:
    """Run it; gives the exit status."""
    parser = argparse.ArgumentParser(description="Replicas of egress killed under load.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    asked = parser.parse_args()
    console = Console(stderr=True)
    console.print(f"seed {asked.seed}")
    folder = Path(tempfile.mkdtemp(prefix="kivuko-soak-"))
    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("kills of egress", total=asked.kills)
        found = on_postgresql(folder, asked.kills, random.Random(asked.seed), lambda: progress.advance(task))
    console.print(said(found), highlight=False)
    for each in found.faults:
        console.print(f"  {each}", highlight=False)
    if found.faults:
        console.print(f"its files are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
