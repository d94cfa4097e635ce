"""What receives in the benchmark of ingest: this project and its peers, each started as its users start it."""

import shutil
import sqlite3
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Protocol

from tests.bench.gauge import cpu_seconds
from tests.support.dcmtk import ENVIRONMENT
from tests.support.kivuko import embedded
from tests.support.orthanc import Orthanc
from tests.support.port import free_port
from tests.support.process import Program, answers, program
from tests.support.sender import Sent
from tests.support.stored import NETWORK, database

_LOOK_S = 0.01
_REST_S = 0.3
_MOST_S = 300


class Target(Protocol):
    """One receiver."""

    name: str
    called: str

    @property
    def port(self) -> int:
        """Port of C-STORE."""
        ...

    @property
    def pid(self) -> int:
        """Root of its processes."""
        ...

    def start(self) -> None:
        """Start it with nothing in it."""
        ...

    def stop(self) -> None:
        """End it."""
        ...

    def done(self, sent: Sent, count: int) -> float:
        """Give the time (`time.monotonic`) at which everything that it does with what was sent was done."""
        ...

    def settle(self, sent: Sent) -> None:
        """Return when it is at rest, and what it was sent is out of the way."""
        ...


class Kivuko:
    """The embedded profile; done when every instance is indexed and every event is out of the outbox, in the bus."""

    name = "Kivuko"
    called = "KIVUKO"

    def __init__(self, folder: Path, **env: str) -> None:
        self._system = embedded(folder, **env)

    @property
    def port(self) -> int:
        return self._system.dicom_port

    @property
    def pid(self) -> int:
        return self._system.of("all").pid

    def start(self) -> None:
        self._system.start()
        self._system.apply(NETWORK)

    def stop(self) -> None:
        self._system.kill()

    def done(self, sent: Sent, count: int) -> float:
        if not self._reached(lambda db: _indexed(db, sent.studies) >= count and _published(db)):
            raise RuntimeError(f"not all of {count} instances were indexed within {_MOST_S} s of the last response")
        return time.monotonic()

    def settle(self, sent: Sent) -> None:
        # Completion and its events come after the quiet time; they must not fall into another's round.
        if not self._reached(lambda db: _complete(db, sent.studies) == len(sent.studies) and _published(db)):
            raise RuntimeError(f"not all of {len(sent.studies)} studies were complete within {_MOST_S} s")
        rest(self.pid)

    def _reached(self, state: Callable[[sqlite3.Connection], bool]) -> bool:
        index = database(self._system.of("all").home, "ingest")
        try:
            deadline = time.monotonic() + _MOST_S
            while not state(index):
                if time.monotonic() > deadline:
                    return False
                time.sleep(_LOOK_S)
            return True
        finally:
            index.close()


def _indexed(index: sqlite3.Connection, studies: list[str]) -> int:
    return int(_of(index, "coalesce(sum(instance_count), 0)", studies))


def _complete(index: sqlite3.Connection, studies: list[str]) -> int:
    return int(_of(index, "coalesce(sum(version_count = instance_count), 0)", studies))


def _of(index: sqlite3.Connection, what: str, studies: list[str]) -> int:
    marks = ",".join("?" * len(studies))
    found: int = index.execute(f"SELECT {what} FROM studies WHERE study_uid IN ({marks})", studies).fetchone()[0]  # noqa: S608 (constants and question marks)
    return found


def _published(index: sqlite3.Connection) -> bool:
    return not index.execute("SELECT EXISTS(SELECT 1 FROM outbox)").fetchone()[0]


class Peer:
    """A program that has done all it does when it has answered."""

    def __init__(
        self, name: str, folder: Path, command: Callable[[int, Path], list[str]], *, called: str, env: Mapping[str, str]
    ) -> None:
        self.name = name
        self.called = called
        self._port = free_port()
        self._received = folder / "received"
        self._received.mkdir(parents=True)
        self._program = Program(command(self._port, self._received), folder, name="peer", env=env)

    @property
    def port(self) -> int:
        return self._port

    @property
    def pid(self) -> int:
        return self._program.pid

    def start(self) -> None:
        # Not in the folder of the benchmark, where Python would not find this package.
        self._program.start(lambda: answers(self._port))

    def stop(self) -> None:
        self._program.kill()

    def done(self, sent: Sent, count: int) -> float:
        del count
        return sent.ended

    def settle(self, sent: Sent) -> None:
        del sent
        rest(self.pid)
        shutil.rmtree(self._received)
        self._received.mkdir()


def storescp(name: str, folder: Path, *flags: str) -> Peer:
    """Make dcmtk's storescp, with flags besides those that it needs."""

    def command(port: int, received: Path) -> list[str]:
        return [program("storescp", "dcmtk"), "-aet", "STORESCP", "--fork", *flags, "-od", str(received), str(port)]

    return Peer(name, folder, command, called="STORESCP", env=ENVIRONMENT)


def plain(name: str, folder: Path, *flags: str) -> Peer:
    """Make a plain pynetdicom SCP."""

    def command(port: int, received: Path) -> list[str]:
        return [sys.executable, "-m", "tests.bench.plain_scp", str(port), str(received), *flags]

    return Peer(name, folder, command, called="PLAIN", env={"PYTHONPATH": str(Path(__file__).parents[2])})


class OrthancPeer:
    """Orthanc with its default settings but for its ports."""

    name = "Orthanc"
    called = "ORTHANC"

    def __init__(self, folder: Path) -> None:
        self._server = Orthanc(folder)

    @property
    def port(self) -> int:
        return self._server.dicom_port

    @property
    def pid(self) -> int:
        return self._server.pid

    def start(self) -> None:
        self._server.start()

    def stop(self) -> None:
        self._server.close()

    def done(self, sent: Sent, count: int) -> float:
        del count
        return sent.ended

    def settle(self, sent: Sent) -> None:
        del sent
        rest(self.pid)


def rest(pid: int) -> None:
    """Return when a tree of processes uses next to nothing any more."""
    before = cpu_seconds(pid)
    deadline = time.monotonic() + _MOST_S
    while time.monotonic() < deadline:
        time.sleep(_REST_S)
        now = cpu_seconds(pid)
        if now - before <= 0.05 * _REST_S:
            return
        before = now
    raise RuntimeError(f"process {pid} is still busy after {_MOST_S} s")


def targets(folder: Path) -> dict[str, Target]:
    """Give all receivers by name, none started; Kivuko is the first."""
    made: list[Target] = [
        Kivuko(folder / "kivuko"),
        storescp("storescp", folder / "storescp"),
        storescp("storescp +B", folder / "storescp-b", "+B"),
        OrthancPeer(folder / "orthanc"),
        plain("pynetdicom", folder / "plain"),
        plain("pynetdicom nodelay", folder / "plain-nodelay", "nodelay"),
    ]
    return {each.name: each for each in made}
