"""Power cuts: processes killed at random moments while a modality sends; nothing acknowledged is ever lost."""

import os
import random
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import pytest
from pydicom.uid import ExplicitVRLittleEndian
from pynetdicom import AE
from pynetdicom.sop_class import CTImageStorage  # type: ignore[attr-defined]  # made at run time by pynetdicom

from contracts.topics import SERVICES
from tests.conftest import StoreScpFactory
from tests.e2e.conftest import definition, make_system
from tests.support.dcmtk import StoreScp
from tests.support.kivuko import Process, System
from tests.support.process import wait_until
from tests.support.rabbitmq import RabbitMQ
from tests.support.synthetic import make_ct

pytestmark = [pytest.mark.e2e, pytest.mark.crash, pytest.mark.timeout(900)]

#: `make soak` asks for twenty.
KILLS = int(os.environ.get("KIVUKO_TEST_KILLS", "2"))
INSTANCES = max(250, 25 * KILLS)
STUDIES = 10
assert INSTANCES % STUDIES == 0, f"KIVUKO_TEST_KILLS={KILLS} makes studies of different sizes: take an even number"


class Modality:
    """Sends files one after the other and resumes after each break; remembers what was acknowledged."""

    def __init__(self, paths: list[Path], system: System, pace: float) -> None:
        self._paths = paths
        self._system = system
        self._pace = pace
        self.acknowledged: dict[str, int] = {}
        self.attempts = 0
        self.thread = threading.Thread(target=self._run, daemon=True)
        self.failure: BaseException | None = None

    def got_to(self, mark: int) -> bool:
        """Tell whether so many are acknowledged, or there will be no more."""
        return len(self.acknowledged) >= mark or not self.thread.is_alive()

    def _run(self) -> None:
        try:
            waiting = list(self._paths)
            while waiting:
                waiting = self._association(waiting)
        except BaseException as error:
            self.failure = error
            raise

    def _association(self, waiting: list[Path]) -> list[Path]:
        entity = AE(ae_title="STORESCU")
        entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
        entity.acse_timeout = entity.dimse_timeout = entity.network_timeout = 10
        association = entity.associate("127.0.0.1", self._system.dicom_port, ae_title="KIVUKO")
        if not association.is_established:
            time.sleep(0.05)  # a modality's own pause between two tries
            return waiting
        while waiting:
            self.attempts += 1
            try:
                status = association.send_c_store(waiting[0])
            except RuntimeError:
                break
            if not status or status.Status != 0x0000:
                break
            self.acknowledged[waiting.pop(0).stem] = 0
            time.sleep(self._pace)  # spreads the stream over all the kills
        association.abort()
        return waiting


def stream(folder: Path) -> list[Path]:
    """Write the stream: small CT instances of ten studies, mixed."""
    folder.mkdir()
    paths = []
    for number in range(INSTANCES):
        study = f"1.2.826.0.1.3680043.10.1.{number % STUDIES + 1}"
        uid = f"{study}.1.{number + 1}"
        paths.append(make_ct(folder, study_uid=study, series_uid=f"{study}.1", sop_uid=uid, rows=32, cols=32))
    return paths


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    """Give the stream's files."""
    return stream(tmp_path / "stream")


def arrived(archive: StoreScp) -> set[str]:
    """Give the SOP Instance UIDs at the archive."""
    return {path.name.partition(".")[2].removesuffix(".dcm") for path in archive.files()}


def killing(modality: Modality, kills: int, kill: Callable[[int], None], choice: random.Random) -> None:
    """Kill `kills` times at random moments of the stream, each after some more acknowledgements."""
    marks = sorted(choice.sample(range(5, INSTANCES - 20), kills))
    for number, mark in enumerate(marks):
        wait_until(partial(modality.got_to, mark), "the stream", 120)
        time.sleep(choice.random() * 0.05)  # the random moment itself
        kill(number)


def finish(modality: Modality, archive: StoreScp) -> int:
    """Wait until all is sent and delivered; gives how many C-STORE requests the archive was sent."""
    modality.thread.join(300)
    assert not modality.thread.is_alive(), f"the modality got no further than {len(modality.acknowledged)}"
    assert modality.failure is None
    wait_until(lambda: len(archive.files()) >= INSTANCES, f"all at the archive, {len(archive.files())} are", 240)
    return archive.log.read_text(errors="replace").count("Received Store Request")


@pytest.fixture
def choice() -> random.Random:
    """Give the randomness of this run; its seed is printed when the test fails."""
    seed = int(os.environ.get("KIVUKO_TEST_SEED", str(random.SystemRandom().randrange(2**32))))
    print(f"KIVUKO_TEST_SEED={seed}")
    return random.Random(seed)


def test_embedded_killed_again_and_again_loses_nothing(
    request: pytest.FixtureRequest, tmp_path: Path, storescp: StoreScpFactory, files: list[Path], choice: random.Random
) -> None:
    archive = storescp(aet="ARCHIVE")
    system = make_system(request, "embedded", tmp_path, {})
    process = system.of("ingest")
    try:
        system.start()
        system.apply(definition(archive))
        modality = Modality(files, system, pace=0.01)
        modality.thread.start()

        def kill(_: int) -> None:
            process.kill()
            process.start()

        killing(modality, KILLS, kill, choice)
        requests = finish(modality, archive)
        nothing_lost(system, modality, archive, requests)
    finally:
        system.kill()


def test_cluster_with_each_service_killed_and_the_broker_away_loses_nothing(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    storescp: StoreScpFactory,
    files: list[Path],
    choice: random.Random,
    rabbitmq: RabbitMQ,
) -> None:
    archive = storescp(aet="ARCHIVE")
    system = make_system(request, "cluster", tmp_path, {})
    # Each service in turn, and those that hold studies once more, after the outage.
    victims: list[Process] = [system.of(name) for name in (*SERVICES, "ingest", "rules", "egress")]
    try:
        system.start()
        system.apply(definition(archive))
        modality = Modality(files, system, pace=0.02)
        modality.thread.start()

        def kill(number: int) -> None:
            if number == len(victims) // 2:
                rabbitmq.stop()
                time.sleep(30)  # the outage that the requirement names
                rabbitmq.start()
            victims[number].kill()
            victims[number].start()

        killing(modality, len(victims), kill, choice)
        requests = finish(modality, archive)
        nothing_lost(system, modality, archive, requests)
    finally:
        system.kill()


def nothing_lost(system: System, modality: Modality, archive: StoreScp, requests: int) -> None:
    """Everything acknowledged is at the archive, and every study is complete and its delivery done."""
    assert arrived(archive) == set(modality.acknowledged)
    assert len(modality.acknowledged) == INSTANCES
    wait_until(lambda: len(done(system)) == STUDIES, "every delivery to be done", 180)
    assert requests >= INSTANCES, "the archive's log must hold every request, or duplicates can't be counted"
    print(f"{modality.attempts - INSTANCES} sent again by the modality, {requests - INSTANCES} by egress: harmless")
    spool = system.of("ingest").home / "spool"
    wait_until(lambda: not entries(spool), "an empty spool")


def entries(spool: Path) -> list[Path]:
    """List the files of the spool that hold something; a receiver's empty ones were made ahead."""
    found = []
    for path in spool.rglob("*.*"):
        with suppress(FileNotFoundError):
            if path.is_file() and path.stat().st_size:
                found.append(path)
    return found


def done(system: System) -> set[str]:
    """Give the studies that are complete with all their instances and delivered."""
    found = set()
    for study in system.studies():
        uid = study["study_instance_uid"]
        counts = [
            entry["details"]["instance_count"]
            for entry in system.timeline(uid)
            if entry["event"] == "delivery.completed.v1"
        ]
        if counts and max(counts) == INSTANCES // STUDIES == study["instance_count"]:
            found.add(uid)
    return found
