"""What index, event and header document say of an entry."""

import gzip
import json
from dataclasses import replace
from pathlib import Path

from libs.dicom import header, part10
from services.ingest.preparation import header_document, prepare, shared_attributes, without
from tests.support.synthetic import make_study
from tests.unit.ingest.entries import make_entry


def test_the_header_document_holds_every_instance_and_is_the_same_in_any_order(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 3, PatientName='Odd"^Name\\')
    prepared = [prepare(replace(make_entry(n, sop_uid=path.stem), path=path)) for n, path in enumerate(paths)]
    data = header_document(prepared)
    assert data == header_document(reversed(prepared))
    found = json.loads(gzip.decompress(data))["instances"]
    assert sorted(found) == sorted(path.stem for path in paths)
    for path in paths:
        with path.open("rb") as file:
            part10.decode(file)
            assert found[path.stem] == header.read_whole(file, "1.2.840.10008.1.2.1")[1]


def test_shared_attributes_and_the_rest_make_the_whole(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 3)
    instances = [prepare(replace(make_entry(n), path=path)).instance for n, path in enumerate(paths)]
    shared = shared_attributes([each.attributes for each in instances])
    assert shared["PatientID"] == "P1"
    assert "InstanceNumber" not in shared
    for each in instances:
        own = without(each, shared).attributes
        assert own.keys().isdisjoint(shared)
        assert own | shared == each.attributes
