"""A study finds its way: from dcmtk's storescu to dcmtk's storescp and Orthanc, and no copy stays longer than it may.

One Kivuko of each profile for all of it, as a cluster takes long to start. The first test looks at all traces.
"""

import json
from collections import defaultdict
from datetime import UTC, datetime, timedelta
from io import BytesIO
from pathlib import Path
from typing import Any

import httpx
import pydicom
import pytest
from pydicom.dataset import Dataset

from libs.telemetry.trace import study_trace_id
from tests.conftest import StoreScpFactory
from tests.e2e.conftest import definition
from tests.support.dcmtk import StoreScp, storescu
from tests.support.dicomset import RealFile, dataset_bytes, real_files
from tests.support.hl7 import Line, fields, order
from tests.support.kivuko import System
from tests.support.orthanc import Orthanc
from tests.support.otlp import Sink
from tests.support.port import free_port
from tests.support.process import wait_until
from tests.support.synthetic import make_ct, make_study, new_uid
from tests.support.worklist import find

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

#: Values that occur nowhere else.
SECRETS = {
    "PatientName": "Xquvzneme^Wqdaneri",
    "PatientID": "PIDQX9917364",
    "PatientBirthDate": "19130417",
    "AccessionNumber": "ACCQZ77120",
    "ReferringPhysicianName": "Drqvvxname^Jzx",
    "StudyDescription": "STUDYQZX DESCR",
    "PatientAddress": "Calle Qzxvvi 99",
}

#: What the audit must hold of every study that went all the way.
STEPS = {
    "instances.stored.v1",
    "study.completed.v1",
    "routing.decided.v1",
    "delivery.requested.v1",
    "delivery.attempted.v1",
    "delivery.completed.v1",
}

#: Spans that the trace of each study must hold, from ingest over the broker and rules to egress.
WAY = {
    "C-STORE",
    "index batch",
    "process instances.stored.v1",
    "process study.completed.v1",
    "process delivery.requested.v1",
    "delivery attempt",
}


def by_uid(paths: list[Path]) -> dict[str, bytes]:
    """Give the bytes of each dataset by its SOP Instance UID."""
    return {
        str(pydicom.filereader.read_file_meta_info(path).MediaStorageSOPInstanceUID): dataset_bytes(path)
        for path in paths
    }


def elements(dataset: Dataset) -> dict[str, object]:
    """Give all elements but file meta and group lengths, which a receiver may leave out (PS3.5 7.2)."""
    return {str(element.tag): element.value for element in dataset if element.tag.element != 0}


def test_every_instance_arrives_identical_in_one_trace_with_a_record_of_each_step(
    system: System, storescp: StoreScpFactory, orthanc: Orthanc, sink: Sink
) -> None:
    files = real_files()
    paths = [file.path for file in files]
    reference, archive = storescp(aet="REFERENCE"), storescp(aet="ARCHIVE")
    straight = storescu(reference.port, paths, called="REFERENCE")
    assert straight.returncode == 0, straight.stdout + straight.stderr
    system.apply(definition(archive, orthanc))

    sent = storescu(system.dicom_port, paths)

    assert sent.returncode == 0, sent.stdout + sent.stderr
    studies: dict[str, list[RealFile]] = defaultdict(list)
    for file in files:
        studies[file.study_uid].append(file)
    wait_until(lambda: len(archive.files()) == len(files), "every instance at the archive", 120)
    wait_until(lambda: len(orthanc.instances()) == len(files), "every instance at Orthanc", 120)
    assert by_uid(archive.files()) == by_uid(reference.files())
    same_elements_and_pixels(orthanc, files, reference.files())
    for uid in studies:
        wait_until(lambda uid=uid: completed(system, uid) == {"archive", "reader"}, f"both deliveries of {uid}", 60)  # type: ignore[misc]
        assert {entry["event"] for entry in system.timeline(uid)} >= STEPS
    one_trace_a_study(system, sink, studies)


def completed(system: System, uid: str) -> set[str]:
    """Give the destinations whose delivery of a study the audit knows as completed."""
    entries = [entry for entry in system.timeline(uid) if entry["event"] == "delivery.completed.v1"]
    return {entry["details"]["destination"] for entry in entries}


def same_elements_and_pixels(orthanc: Orthanc, files: tuple[RealFile, ...], references: list[Path]) -> None:
    """Compare what Orthanc keeps with what storescp was sent, element by element, pixels included."""
    expected = {str(dataset.SOPInstanceUID): dataset for dataset in map(pydicom.dcmread, references)}
    received = [pydicom.dcmread(BytesIO(orthanc.file(instance))) for instance in orthanc.instances()]
    assert {str(dataset.SOPInstanceUID) for dataset in received} == {file.sop_uid for file in files}
    for dataset in received:
        assert elements(dataset) == elements(expected[str(dataset.SOPInstanceUID)])


def one_trace_a_study(system: System, sink: Sink, studies: dict[str, list[RealFile]]) -> None:
    """Each study has exactly one trace, from C-STORE to the end of each delivery, over every service."""
    for uid, files in studies.items():
        trace_id = f"{study_trace_id('default', uid):032x}"
        wait_until(
            lambda trace_id=trace_id: {span.name for span in sink.of(trace_id)} >= WAY,  # type: ignore[misc]
            f"the spans of {uid} in {system.profile}; there are {sorted({span.name for span in sink.of(trace_id)})}",
            30,
        )
        stores = [span for span in sink.of(trace_id) if span.name == "C-STORE"]
        assert len(stores) == len(files)
    traces = {f"{study_trace_id('default', uid):032x}" for uid in studies}
    elsewhere = {(span.name, span.trace_id) for span in sink.spans if span.name in WAY and span.trace_id not in traces}
    assert not elsewhere, "a part of a study's way is in another trace"


def test_values_of_a_study_are_nowhere_but_in_its_objects_and_records(
    system: System, storescp: StoreScpFactory, sink: Sink, tmp_path: Path
) -> None:
    good, bad = tmp_path / "good.dcm", tmp_path / "bad.dcm"
    dataset = pydicom.dcmread(next(file.path for file in real_files() if file.modality == "MR"))
    for keyword, value in SECRETS.items():
        setattr(dataset, keyword, value)
    dataset.StudyInstanceUID, dataset.SeriesInstanceUID, dataset.SOPInstanceUID = new_uid(), new_uid(), new_uid()
    dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
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
    trace_id = f"{study_trace_id('default', uid):032x}"
    wait_until(lambda: "delivery attempt" in {span.name for span in sink.of(trace_id)}, "the spans of the delivery")
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


def described(archive: StoreScp) -> dict[str, str]:
    """Give the Series Description of each instance that the archive has."""
    found = (pydicom.dcmread(path, stop_before_pixels=True) for path in archive.files())
    return {str(each.SOPInstanceUID): str(each.SeriesDescription) for each in found}


def read(orthanc: Orthanc) -> dict[str, str]:
    """Give the same of the reader."""
    found = (pydicom.dcmread(BytesIO(orthanc.file(each)), stop_before_pixels=True) for each in orthanc.instances())
    return {str(each.SOPInstanceUID): str(each.SeriesDescription) for each in found}


def has_version(system: System, study: str, version: int) -> set[str]:
    """Name the destinations that have a version of the study in full."""
    entries = [entry for entry in system.timeline(study) if entry["event"] == "delivery.completed.v1"]
    return {entry["details"]["destination"] for entry in entries if entry["details"]["study_version"] == version}


def put_aside(system: System, study: str) -> list[dict[str, Any]]:
    """Give what waits in the quarantine of a study."""
    entries = system.of("ingest").get("/v1/ingest/quarantine")["entries"]
    return [entry for entry in entries if entry["study_instance_uid"] == study]


def test_a_new_version_and_a_released_one_reach_whoever_has_the_study(
    system: System, storescp: StoreScpFactory, orthanc: Orthanc, tmp_path: Path
) -> None:
    archive = storescp(aet="ARCHIVE")
    network = json.loads(definition(archive, orthanc))
    network["nodes"]["STORESCU"]["same-uid"] = "new-version"
    system.apply(json.dumps(network))
    study, series = new_uid(), new_uid()
    uids = [new_uid(), new_uid()]
    made = []
    for number, uid in enumerate([*uids, uids[0], uids[1]]):
        folder, said = tmp_path / str(number), f"content {number}"
        folder.mkdir()
        made.append(make_ct(folder, study_uid=study, series_uid=series, sop_uid=uid, SeriesDescription=said))

    assert storescu(system.dicom_port, made[:2]).returncode == 0
    wait_until(lambda: has_version(system, study, 1) == {"archive", "reader"}, "both deliveries of version 1", 120)
    assert storescu(system.dicom_port, [made[2]]).returncode == 0
    wait_until(lambda: has_version(system, study, 2) == {"archive", "reader"}, "both deliveries of version 2", 120)
    assert described(archive) == read(orthanc) == {uids[0]: "content 2", uids[1]: "content 1"}

    network["nodes"]["STORESCU"]["same-uid"] = "quarantine"
    system.apply(json.dumps(network))
    assert storescu(system.dicom_port, [made[3]]).returncode == 0
    ingest = system.of("ingest")
    wait_until(lambda: bool(put_aside(system, study)), "the entry of the quarantine")
    (entry,) = put_aside(system, study)
    released = ingest.cli("quarantine", "release", entry["id"], "--replace", "--why", "the scanner was right")
    assert released.returncode == 0, released.stderr
    wait_until(lambda: has_version(system, study, 3) == {"archive", "reader"}, "both deliveries of version 3", 120)
    assert described(archive) == read(orthanc) == {uids[0]: "content 2", uids[1]: "content 3"}
    events = [found["event"] for found in system.timeline(study)]
    assert events.count("instances.conflicted.v1") == 3
    assert "instances.resolved.v1" in events


def kept(system: System, *uids: str) -> dict[str, int]:
    """Give the instances that are kept of each of some studies."""
    found = {study["study_instance_uid"]: study["instance_count"] for study in system.studies()}
    return {uid: found[uid] for uid in uids}


def told(system: System, uid: str) -> list[str]:
    """Give the events that the audit knows of a study."""
    return [entry["event"] for entry in system.timeline(uid)]


def test_a_copy_goes_when_the_archive_has_it_and_stays_while_it_has_not(
    system: System, storescp: StoreScpFactory, tmp_path: Path
) -> None:
    archive = storescp(aet="ARCHIVE")
    network = json.loads(definition(archive))
    network["nodes"]["LOST"] = {"site": "luba", "host": "127.0.0.1", "port": free_port()}
    network["destinations"]["lost"] = {"node": "LOST"}
    network["rules"] = [
        {"name": "MR", "trigger": "instance", "when": 'instance.Modality == "MR"', "deliver": "lost"},
        {"name": "all", "trigger": "study", "deliver": "archive"},
    ]
    network["retention"] = [{"keep": "1s"}]
    system.apply(json.dumps(network))
    owed, delivered = new_uid(), new_uid()
    sets = {
        owed: make_study(tmp_path, 2, study_uid=owed, Modality="MR"),
        delivered: make_study(tmp_path, 3, study_uid=delivered),
    }
    for uid, paths in sets.items():
        sent = storescu(system.dicom_port, paths)
        assert sent.returncode == 0, sent.stdout + sent.stderr
        wait_until(lambda uid=uid: "delivery.completed.v1" in told(system, uid), f"{uid} at the archive", 90)  # type: ignore[misc]

    wait_until(lambda: "study.expired.v1" in told(system, delivered), "the copy to go", 60)
    assert kept(system, owed, delivered) == {owed: 2, delivered: 0}
    (entry,) = [entry for entry in system.timeline(delivered) if entry["event"] == "study.expired.v1"]
    assert entry["details"]["destinations"] == ["archive"]
    assert "archive has it" in entry["sentence"]
    assert len(archive.files()) == 5
    assert "study.expired.v1" not in told(system, owed)

    late = make_ct(tmp_path, study_uid=delivered)
    assert storescu(system.dicom_port, [late]).returncode == 0
    wait_until(lambda: len(archive.files()) == 6, "what came after the copy went at the archive", 60)
    wait_until(lambda: told(system, delivered).count("delivery.completed.v1") == 2, "its version delivered", 60)
    wait_until(lambda: told(system, delivered).count("study.expired.v1") == 2, "it to go too", 60)
    assert kept(system, owed, delivered) == {owed: 2, delivered: 0}


def unmatched(system: System, accession: str) -> bool:
    """Tell whether an order is listed as one whose time is over and that has no study."""
    alone = system.of("worklist").get("/v1/worklist/unmatched")["orders"]
    return accession in {each["accession"] for each in alone}


def test_an_order_by_hl7_is_on_the_worklist_and_its_priority_decides_about_its_study(
    system: System, storescp: StoreScpFactory, tmp_path: Path
) -> None:
    archive = storescp(aet="ARCHIVE")
    network = json.loads(definition(archive))
    network["nodes"]["RIS"] = {"site": "luba", "host": "127.0.0.1", "issuer": "HL", "hl7": {}}
    network["nodes"]["CT1"] = {"site": "luba", "host": "127.0.0.1", "modality": "CT", "may": ["worklist"]}
    network["rules"] = [
        {"name": "urgent", "trigger": "study", "when": 'order.priority == "STAT"', "deliver": "archive"}
    ]
    system.apply(json.dumps(network))
    urgent, other = new_uid(), new_uid()
    worklist = system.of("worklist")
    # Its time is over: until its study is there, it is listed as one that has none.
    start = datetime.now(UTC) - timedelta(days=3)
    line = Line(worklist.addresses["hl7"])
    answer = line.ask(
        order(TQ1=f"TQ1|1||||||{start:%Y%m%d%H%M%S}||S", IPC=f"IPC|E2E1|RP1|{urgent}|SPS1|CT|C^Head^99|||CT1")
    )
    line.close()
    assert fields(answer)[1] == "AA"
    query = Dataset()
    query.AccessionNumber, query.StudyInstanceUID, query.PatientName = "E2E1", "", ""
    dicom = int(worklist.addresses["worklist"].rpartition(":")[2])
    wait_until(lambda: bool(find(dicom, query)[0]), "the order to be on the worklist")
    [shown] = find(dicom, query)[0]
    assert (shown.StudyInstanceUID, shown.PatientName) == (urgent, "Nguema^Ana")
    wait_until(lambda: unmatched(system, "E2E1"), "the order to be listed without study")

    images = [
        make_ct(tmp_path, study_uid=urgent, PatientID="P1", AccessionNumber="E2E1"),
        make_ct(tmp_path, study_uid=other, AccessionNumber="E2E2"),
    ]
    sent = storescu(system.dicom_port, images)

    assert sent.returncode == 0, sent.stdout + sent.stderr
    for uid in (urgent, other):
        wait_until(lambda uid=uid: "routing.decided.v1" in told(system, uid), f"the decision on {uid}")  # type: ignore[misc]
    wait_until(lambda: completed(system, urgent) == {"archive"}, "the study of the order at the archive")
    assert [pydicom.dcmread(each).StudyInstanceUID for each in archive.files()] == [urgent]
    wait_until(lambda: not unmatched(system, "E2E1"), "the order to have its study")
