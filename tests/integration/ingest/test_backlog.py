"""A process that is killed again and again while it has much to catch up with."""

import gzip
import json
import secrets
import threading
from contextlib import closing, suppress
from pathlib import Path

import pytest

from contracts.fact import Source
from libs.clock import utc_now
from libs.dicom import part10
from libs.storage.objects import open_store
from services.ingest.arrival import Arrival, arrival_id
from tests.support.kivuko import Process, embedded
from tests.support.process import wait_until
from tests.support.stored import NETWORK, database
from tests.support.synthetic import make_ct

pytestmark = [pytest.mark.integration, pytest.mark.crash]

COUNT, ASSOCIATIONS, KILLS = 600, 12, 2
STUDY, SERIES, SOP = (f"2.25.{digit * 38}" for digit in "123")
SOURCE = Source(site="luba", node="STORESCU", calling_aet="STORESCU", called_aet="KIVUKO", address="127.0.0.1")


def spool(folder: Path, sample: Path) -> set[str]:
    """Write entries of an association and study each; give their SOP Instance UIDs."""
    with sample.open("rb") as file:
        meta, _ = part10.decode(file)
        dataset = file.read()
    named = [[f"2.25.1{secrets.randbelow(10**37):037d}" for _ in "12"] for _ in range(ASSOCIATIONS)]
    uids = set()
    for number in range(COUNT):
        study_uid, series_uid = named[number % ASSOCIATIONS]
        sop_uid = f"2.25.1{secrets.randbelow(10**37):037d}"
        data = dataset
        for old, new in ((STUDY, study_uid), (SERIES, series_uid), (SOP, sop_uid)):
            data = data.replace(old.encode(), new.encode())
        now = utc_now()
        arrival = Arrival(
            id=arrival_id(now, secrets.token_bytes(8)),
            tenant="default",
            source=SOURCE,
            association_id=f"association-{number % ASSOCIATIONS}",
            sop_class_uid=meta.sop_class_uid,
            sop_instance_uid=sop_uid,
            transfer_syntax_uid=meta.transfer_syntax_uid,
            received_at=now,
        )
        (folder / f"{arrival.id}.dcm").write_bytes(part10.encode(arrival.meta()) + data)
        uids.add(sop_uid)
    return uids


def test_each_start_achieves_something_and_no_header_document_stays_behind(tmp_path: Path) -> None:
    system = embedded(tmp_path)
    process = system.of("all")
    try:
        system.start()
        system.apply(NETWORK)
        process.kill()
        sample = make_ct(tmp_path, study_uid=STUDY, series_uid=SERIES, sop_uid=SOP, rows=16, cols=16)
        uids = spool(process.home / "spool", sample)
        for _ in range(KILLS):
            before = len(indexed(process))
            kill_while_documents_are_noted(process, before)
            assert before < len(indexed(process)) < COUNT
        system.start()
        wait_until(lambda: indexed(process) == uids, "all to be indexed")
        wait_until(lambda: not left(process), "the spool to be empty")
        documents_are_those_of_batches(process, uids)
    finally:
        system.kill()


def kill_while_documents_are_noted(process: Process, before: int) -> None:
    """Start, and kill as soon as more is committed than before and a header document is on its way, ready or not."""

    def kill() -> None:
        wait_until(lambda: len(indexed(process)) > before and bool(notes(process)), "the next transaction")
        process.kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with suppress(RuntimeError):  # that is what a start says whose process was killed
        process.start()
    killer.join()
    assert not process.running


def indexed(process: Process) -> set[str]:
    with closing(database(process.home, "ingest")) as index:
        return {uid for (uid,) in index.execute("SELECT sop_uid FROM instances")}


def notes(process: Process) -> list[Path]:
    return list((process.home / "spool").glob("*.headers"))


def left(process: Process) -> list[Path]:
    return [*notes(process), *(process.home / "spool").glob("*.dcm")]


def documents_are_those_of_batches(process: Process, uids: set[str]) -> None:
    with closing(database(process.home, "ingest")) as index:
        named = {key for (key,) in index.execute("SELECT headers_key FROM batches")}
    store = open_store(f"file://{process.home}/objects")
    with closing(store):
        assert set(store.list("headers/")) == named
        described: list[str] = []
        for key in named:
            with store.open(key) as file:
                described += json.loads(gzip.decompress(file.read()))["instances"]
        assert sorted(described) == sorted(uids)
