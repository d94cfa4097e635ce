from io import BytesIO

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filereader import read_dataset
from pydicom.filewriter import write_dataset

from libs.dimse import query
from libs.dimse.pdu import MalformedError

pytestmark = pytest.mark.unit
uids = st.from_regex(r"[1-9][0-9]{0,8}(\.[1-9][0-9]{0,8}){1,4}", fullmatch=True)


@given(uids, uids | st.just(""), st.sampled_from(["STUDY", "SERIES", "IMAGE"]))
def test_identifiers_are_what_pydicom_reads_and_writes(study: str, series: str, level: str) -> None:
    encoded = query.encode({query.STUDY: study, query.LEVEL: level, query.SERIES: series})
    read = read_dataset(BytesIO(encoded), is_implicit_VR=True, is_little_endian=True)
    assert (read.StudyInstanceUID, read.SeriesInstanceUID or "", read.QueryRetrieveLevel) == (study, series, level)
    file = DicomBytesIO()
    file.is_implicit_VR, file.is_little_endian = True, True
    made = Dataset()
    made.StudyInstanceUID, made.NumberOfStudyRelatedInstances = study, "12"
    write_dataset(file, made)
    assert query.decode(file.getvalue()) == {query.STUDY: study, query.INSTANCES_OF_STUDY: "12"}


@given(st.binary(max_size=64))
def test_what_is_no_identifier_is_malformed_and_nothing_else(data: bytes) -> None:
    try:
        found = query.decode(data)
    except MalformedError:
        return
    assert all(isinstance(text, str) for text in found.values())


@pytest.mark.parametrize("data", [b"\x08", b"\x08\0\x18\0\x04\0\0\0ab", b"\x08\0\x18\0\xff\xff\xff\xff"])
def test_an_element_without_an_end_is_malformed(data: bytes) -> None:
    with pytest.raises(MalformedError):
        query.decode(data)
