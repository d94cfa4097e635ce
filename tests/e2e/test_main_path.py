"""A study finds its way: a real multi-modality set from dcmtk's storescu to dcmtk's storescp and Orthanc."""

from collections import defaultdict
from io import BytesIO
from pathlib import Path

import pydicom
import pytest
from pydicom.dataset import Dataset

from libs.telemetry.trace import study_trace_id
from tests.conftest import StoreScpFactory
from tests.e2e.conftest import definition
from tests.support.dcmtk import storescu
from tests.support.dicomset import RealFile, dataset_bytes, real_files
from tests.support.kivuko import System
from tests.support.orthanc import Orthanc
from tests.support.otlp import Sink
from tests.support.process import wait_until

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(400)]

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
