"""Many modalities that go on whatever happens, someone who kills, and what must hold afterwards."""

import hashlib
import json
import os
import random
import signal
import sqlite3
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from uuid import uuid4

import psutil

from libs.storage.objects import ObjectMissingError, open_store
from tests.support.dicomset import dataset_of
from tests.support.kivuko import Process, System
from tests.support.process import wait_until
from tests.support.requestor import Association, BrokenError, NotAcceptedError, Request
from tests.support.stored import NETWORK, database
from tests.support.template import SYNTAX, Image, ct512, small, uid

_AN_ASSOCIATION = 30
_A_STUDY = 25
#: Files that a receiver makes ahead stay empty until an arrival takes them.
_EMPTY_AHEAD = 300
#: What is killed for: an object of such a prefix that no row names yet; or a random moment.
_MOMENTS = ("manifests", None, "headers", None)
#: Seconds until there must have been such an object, and for how long the database is held at a time to wait for one.
_LONGEST_LURK = 60.0
_HELD = 0.2


@dataclass(frozen=True)
class Acknowledged:
    """One instance that was answered with success, and when the answer had come (UTC)."""

    study_uid: str
    sop_uid: str
    digest: str
    at: datetime


class Studies:
    """Studies that the modalities fill together: mostly one each, at times another's, at times one of long ago."""

    def __init__(self, choice: random.Random) -> None:
        self._choice = choice
        self._lock = threading.Lock()
        self._known: list[int] = []
        self._numbers: Counter[int] = Counter()

    def choose(self, own: int | None) -> int:
        """Give the study to go on with."""
        with self._lock:
            odds = self._choice.random()
            if own is not None and odds < 0.8 and self._numbers[own] < _A_STUDY:
                return own
            if self._known and odds > 0.95:
                return self._choice.choice(self._known)
            fresh = uuid4().int >> 32 << 20
            self._known.append(fresh)
            return fresh

    def number(self, study: int) -> int:
        """Give the number of the next instance of a study."""
        with self._lock:
            self._numbers[study] += 1
            return self._numbers[study]


class Modality:
    """Sends until it is told to stop; comes again after each break, mostly with the same instance."""

    def __init__(self, port: Callable[[], int], studies: Studies, choice: random.Random, pace: float) -> None:
        self._port = port
        self._studies = studies
        self._choice = choice
        self._pace = pace
        self._images = (small().image(), small().image(), small().image(), ct512().image())
        self._stop = threading.Event()
        self._waiting: tuple[Image, int, int] | None = None
        self._study: int | None = None
        self.acknowledged: list[Acknowledged] = []
        self.refusals: Counter[str] = Counter()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End after the instance in hand; raise what ended it before."""
        self._stop.set()
        self._thread.join(60)
        if self._thread.is_alive():
            raise TimeoutError("a modality hangs: it has neither an answer nor an end of its association")
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                self._association()
        except BaseException as error:
            self.failure = error
            raise

    def _association(self) -> None:
        try:
            association = Association(self._port(), sop_class=small().sop_class, syntax=SYNTAX, timeout=20)
        except (BrokenError, NotAcceptedError) as error:
            self.refusals[str(error)] += 1
            self._stop.wait(0.05)  # a modality's own pause between two tries
            return
        try:
            requests = {
                id(image): Request(image.dataset, image.sop_class, image.sop_uid, association.max_pdu)
                for image in self._images
            }
            for _ in range(self._choice.randint(1, _AN_ASSOCIATION)):
                if self._stop.is_set() or not self._one(association, requests):
                    break
            if self._choice.random() < 0.2:
                association.abort()
            else:
                association.release()
        except BrokenError:
            if self._choice.random() < 0.2:
                self._waiting = None  # this modality gives the instance up
        finally:
            association.close()

    def _one(self, association: Association, requests: dict[int, Request]) -> bool:
        if self._waiting is None:
            self._study = self._studies.choose(self._study)
            self._waiting = self._choice.choice(self._images), self._study, self._studies.number(self._study)
        image, study, number = self._waiting
        image.become(uid(study), uid(study + 1), uid(study + 1 + number), number)
        request = requests[id(image)]
        request.name(image.sop_uid.encode())
        status = association.store(request)
        if status != 0:
            self.refusals[f"0x{status:04X}"] += 1
            self._stop.wait(0.2)
            return False
        self.acknowledged.append(Acknowledged(uid(study), image.sop_uid, image.digest, datetime.now(UTC)))
        self._waiting = None
        self._stop.wait(self._choice.random() * self._pace)
        return True


def modalities(system: System, many: int, choice: random.Random, pace: float) -> list[Modality]:
    """Make modalities that send to a system, wherever it listens at the time."""
    studies = Studies(random.Random(choice.random()))
    return [Modality(lambda: system.dicom_port, studies, random.Random(choice.random()), pace) for _ in range(many)]


def receivers(process: Process) -> list[psutil.Process]:
    """List the receiver processes of a running Kivuko."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            if "services.ingest.receiver" in child.cmdline():
                found.append(child)
    return found


def kill_before_its_row(process: Process, prefix: str) -> str:
    """Kill everything while an object of this prefix is in the store and no row names it; gives what it was.

    Nobody can write that row while the database is held here.
    """
    deadline = time.monotonic() + _LONGEST_LURK
    path = process.home / "db" / "ingest.db"
    with closing(sqlite3.connect(path, isolation_level=None, timeout=30)) as tables:
        while not _killed_before_its_row(process, prefix, tables):
            if time.monotonic() > deadline:
                raise TimeoutError(f"waited {_LONGEST_LURK:g} s for an object below {prefix} that no row names yet")
            time.sleep(_HELD)  # others have their turn
    process.start()
    return prefix


def _killed_before_its_row(process: Process, prefix: str, tables: sqlite3.Connection) -> bool:
    tables.execute("BEGIN IMMEDIATE")
    try:
        wait_until(lambda: _rowless(process.home, prefix, tables), "an object", _HELD)
    except TimeoutError:
        return False
    else:
        process.kill()
        return True
    finally:
        tables.execute("ROLLBACK")


def _rowless(home: Path, prefix: str, tables: sqlite3.Connection) -> bool:
    kept = {name for _, _, names in os.walk(home / "objects" / prefix) for name in names}
    if prefix == "headers":
        rows = tables.execute("SELECT headers_key FROM batches")
        return not kept <= {key.rpartition("/")[2] for (key,) in rows}
    attempts = {attempt for (attempt,) in tables.execute("SELECT attempt FROM studies WHERE attempt IS NOT NULL")}
    return any(name.rpartition("-")[2].removesuffix(".json") in attempts for name in kept)


def kill_one(process: Process, choice: random.Random) -> str:
    """Kill at a random moment: a receiver, everything, or everything while it starts again; gives what it was."""
    time.sleep(choice.random())  # the random moment itself
    odds = choice.random()
    helpers = receivers(process)
    if odds < 0.4 and helpers:
        with suppress(ProcessLookupError):
            os.kill(choice.choice(helpers).pid, signal.SIGKILL)
        return "receiver"
    process.kill()
    if odds > 0.85:
        _kill_while_starting(process, choice)
        process.start()
        return "start"
    process.start()
    return "all"


def _kill_while_starting(process: Process, choice: random.Random) -> None:
    timer = threading.Timer(choice.random() * 4, process.kill)
    timer.start()
    try:
        with suppress(RuntimeError):  # that is what a start says whose process was killed
            process.start()
    finally:
        timer.join()
    process.kill()


@dataclass(frozen=True)
class Aftermath:
    """What was found after a storm, and out of how much."""

    faults: list[str]
    acknowledged: int
    versions: int


def storm(
    system: System,
    *,
    senders: int,
    kills: int,
    between: int,
    choice: random.Random,
    pace: float,
    told: Callable[[str], None],
) -> Aftermath:
    """Let modalities send to an embedded Kivuko while it is killed again and again, and look at what is left.

    `between` is how many more instances are acknowledged before each kill and after the last, `pace` the longest pause
    of a modality in seconds; `told` hears of each kill.
    """
    process = system.of("ingest")
    objects = f"file://{process.home / 'objects'}"
    system.start()
    system.apply(NETWORK)
    stations = modalities(system, senders, choice, pace)
    for station in stations:
        station.start()
    for number in range(kills):
        _more(stations, between)
        moment = _MOMENTS[number % len(_MOMENTS)]
        told(kill_one(process, choice) if moment is None else kill_before_its_row(process, moment))
    _more(stations, between)
    for station in stations:
        station.stop()
    # What is killed all the time completes few studies: they wait, and are many after many kills.
    settled(system, stations, timeout_s=240 + 4 * kills)
    return Aftermath(
        [*lost(system, stations, objects), *orphans(system, objects), *premature(system, stations, objects)],
        sum(len(station.acknowledged) for station in stations),
        len(versions(process.home)),
    )


def _more(stations: Sequence[Modality], count: int) -> None:
    def total() -> int:
        return sum(len(station.acknowledged) for station in stations)

    wanted = total() + count
    wait_until(lambda: total() >= wanted, f"{count} more instances to be acknowledged", 120)


def settled(system: System, stations: Sequence[Modality], timeout_s: float = 240) -> None:
    """Wait until everything acknowledged is indexed, all studies are complete and audited, and the spool is empty."""
    wanted = {each.sop_uid for station in stations for each in station.acknowledged}
    home = system.of("ingest").home

    def done() -> bool:
        with closing(database(home, "ingest")) as tables:
            waiting, declared = tables.execute(
                "SELECT total(version_count <> instance_count OR due_at IS NOT NULL), total(version) FROM studies"
            ).fetchone()
            published = not tables.execute("SELECT EXISTS(SELECT 1 FROM outbox)").fetchone()[0]
            known = {row[0] for row in tables.execute("SELECT sop_uid FROM instances")}
        if not published or waiting or not wanted <= known or spooled(home):
            return False
        return len(versions(home)) == int(declared)

    try:
        wait_until(done, "the system to be at rest", timeout_s)
    except TimeoutError:
        # What is not there in time is said in detail by the checks that follow.
        print("not at rest:", spooled(home)[:5])


def lost(system: System, stations: Sequence[Modality], objects: str) -> list[str]:
    """Say what of that which was acknowledged the index or the object store does not hold as it was sent."""
    with closing(database(system.of("ingest").home, "ingest")) as tables:
        rows = {
            row[0]: (row[1], row[2])
            for row in tables.execute("SELECT sop_uid, content_hash, object_key FROM instances")
        }
    found = []
    store = open_store(objects)
    for each in (each for station in stations for each in station.acknowledged):
        digest, key = rows.get(each.sop_uid, ("", ""))
        if digest != each.digest:
            found.append(f"{each.sop_uid}, acknowledged at {each.at}, is indexed as {digest or 'nothing'}")
            continue
        try:
            with store.open(key) as file:
                kept = hashlib.sha256(dataset_of(file.read())).hexdigest()
        except ObjectMissingError:
            kept = "nothing"
        if kept != each.digest:
            found.append(f"{each.sop_uid}, acknowledged at {each.at}, is in the object store as {kept}")
    store.close()
    return found


def orphans(system: System, objects: str) -> list[str]:
    """Say what nobody names: files in the spool, objects without a row, rows without an object."""
    home = system.of("ingest").home
    with closing(database(home, "ingest")) as tables:
        named = {
            row[0]
            for row in tables.execute(
                "SELECT object_key FROM instances UNION SELECT object_key FROM quarantine "
                "UNION SELECT headers_key FROM batches"
            )
        }
    named |= {version.key for version in versions(home)}
    store = open_store(objects)
    kept = set(store.list(""))
    store.close()
    return [
        *(f"in the spool: {path}" for path in spooled(home)),
        *(f"object without a row: {key}" for key in sorted(kept - named)),
        *(f"row without an object: {key}" for key in sorted(named - kept)),
    ]


def spooled(home: Path) -> list[Path]:
    """List the files of the spool that hold anything, and those beyond what receivers make ahead."""
    files = []
    for path in (home / "spool").rglob("*"):
        with suppress(FileNotFoundError):  # indexed meanwhile
            if path.is_file():
                files.append((path, path.stat().st_size))
    empty = [path for path, size in files if size == 0]
    return [path for path, size in files if size] + empty[_EMPTY_AHEAD:]


@dataclass(frozen=True)
class Version:
    """One version of a study, as an event said it."""

    study_uid: str
    number: int
    at: datetime
    key: str


def versions(home: Path) -> list[Version]:
    """List the versions of all studies that the audit knows."""
    with closing(database(home, "audit")) as tables:
        bodies = [
            json.loads(row[0])
            for row in tables.execute(
                "SELECT body FROM records WHERE type IN ('kivuko.study.completed.v1', 'kivuko.study.amended.v1')"
            )
        ]
    return [
        Version(
            study_uid=body["data"]["study_instance_uid"],
            number=body["data"]["version"],
            at=datetime.fromisoformat(body["time"]),
            key=body["data"]["manifest"]["key"],
        )
        for body in bodies
    ]


def premature(system: System, stations: Sequence[Modality], objects: str) -> list[str]:
    """Say which versions of a study lack what had been acknowledged before they were declared."""
    known = defaultdict(list)
    for each in (each for station in stations for each in station.acknowledged):
        known[each.study_uid].append(each)
    found = []
    store = open_store(objects)
    for version in versions(system.of("ingest").home):
        with store.open(version.key) as file:
            manifest = {each["sop_instance_uid"] for each in json.load(file)["instances"]}
        missing = [each for each in known[version.study_uid] if each.at < version.at and each.sop_uid not in manifest]
        found += [
            f"version {version.number} of {version.study_uid} at {version.at} lacks {each.sop_uid}, "
            f"acknowledged {(version.at - each.at).total_seconds():.3f} s before"
            for each in missing
        ]
    store.close()
    return found
