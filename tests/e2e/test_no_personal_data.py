"""No personal data leaves by logs, spans or metrics: a study with values that occur nowhere else goes all the way."""

from pathlib import Path

import httpx
import pydicom
import pytest

from tests.conftest import StoreScpFactory
from tests.e2e.conftest import definition
from tests.support.dcmtk import storescu
from tests.support.dicomset import real_files
from tests.support.kivuko import System
from tests.support.otlp import Sink
from tests.support.process import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

SECRETS = {
    "PatientName": "Xquvzneme^Wqdaneri",
    "PatientID": "PIDQX9917364",
    "PatientBirthDate": "19130417",
    "AccessionNumber": "ACCQZ77120",
    "ReferringPhysicianName": "Drqvvxname^Jzx",
    "StudyDescription": "STUDYQZX DESCR",
    "PatientAddress": "Calle Qzxvvi 99",
}


def test_values_of_a_study_are_nowhere_but_in_its_objects_and_records(
    system: System, storescp: StoreScpFactory, sink: Sink, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.dcm", tmp_path / "bad.dcm"
    dataset = pydicom.dcmread(next(file.path for file in real_files() if file.modality == "MR"))
    for keyword, value in SECRETS.items():
        setattr(dataset, keyword, value)
    dataset.save_as(good)
    del dataset.StudyInstanceUID
    dataset.save_as(bad)
    archive = storescp(aet="ARCHIVE")
    system.apply(definition(archive))

    storescu(system.dicom_port, [bad])
    sent = storescu(system.dicom_port, [good])

    assert sent.returncode == 0, sent.stdout + sent.stderr
    wait_until(lambda: len(archive.files()) == 1, "the study at the archive")
    uid = str(pydicom.dcmread(good).StudyInstanceUID)
    wait_until(
        lambda: "delivery.completed.v1" in {entry["event"] for entry in system.timeline(uid)},
        "the end of the delivery",
    )
    wait_until(lambda: any(span.name == "delivery attempt" for span in sink.spans), "the spans of the delivery")
    said = {
        **{f"log of {name}": process.log.read_bytes() for name, process in system.processes.items()},
        **{f"metrics of {name}": metrics(process.http) for name, process in system.processes.items()},
        "spans": b"".join(sink.raw),
        "timeline": repr([entry["sentence"] for entry in system.timeline(uid)]).encode(),
    }
    for value in SECRETS.values():
        assert value.encode() in good.read_bytes(), "the values are looked for as they stand in the file"
    for where, text in said.items():
        assert text, f"the {where} is empty: a search in nothing proves nothing"
        for keyword, value in SECRETS.items():
            for part in value.split("^"):
                assert part.encode() not in text, f"{keyword} is in the {where}"


def metrics(url: str) -> bytes:
    """Read the metrics of a process."""
    return httpx.get(f"{url}/metrics", trust_env=False).raise_for_status().content
