import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom import dcmread

from libs.dicom import part10
from libs.dicom.part10 import Meta, NotPart10Error

pytestmark = pytest.mark.unit

uids = st.from_regex(r"[0-9]{1,9}(\.[0-9]{1,9}){0,5}", fullmatch=True)
metas = st.builds(
    Meta,
    sop_class_uid=uids,
    sop_instance_uid=uids,
    transfer_syntax_uid=uids,
    private=st.dictionaries(st.text(max_size=20), st.text(max_size=40), max_size=5),
)


@given(metas, st.binary(max_size=50))
def test_what_is_written_is_read_back_and_the_dataset_starts_where_it_says(meta: Meta, dataset: bytes) -> None:
    # A dataset never starts with group 0002.
    dataset = b"\x08\x00" + dataset
    head = part10.encode(meta)
    file = io.BytesIO(head + dataset)
    assert part10.decode(file) == (meta, len(head))
    assert file.read() == dataset


def test_pydicom_reads_what_we_write() -> None:
    meta = Meta("1.2.840.10008.5.1.4.1.1.2", "1.2.3", "1.2.840.10008.1.2.1", {"site": "luba"})
    found = dcmread(io.BytesIO(part10.encode(meta)))
    assert found.file_meta.MediaStorageSOPInstanceUID == "1.2.3"
    assert found.file_meta.TransferSyntaxUID == "1.2.840.10008.1.2.1"
    assert found.file_meta.PrivateInformationCreatorUID == part10.PRIVATE_CREATOR_UID
    assert found.file_meta.FileMetaInformationGroupLength == len(part10.encode(meta)) - 144


@given(st.binary(max_size=300))
def test_anything_else_is_refused_and_nothing_worse(data: bytes) -> None:
    for file in (io.BytesIO(data), io.BytesIO(part10.PREAMBLE + data)):
        try:
            meta, _ = part10.decode(file)
        except NotPart10Error:
            continue
        assert meta.transfer_syntax_uid


@given(metas, st.integers(min_value=0))
def test_a_file_that_was_cut_is_refused(meta: Meta, at: int) -> None:
    head = part10.encode(meta)
    whole = io.BytesIO(head)
    cut = head[: at % len(head)]
    try:
        found, _ = part10.decode(io.BytesIO(cut))
    except NotPart10Error:
        return
    # Cut between two elements: what is there is right.
    assert found.transfer_syntax_uid == part10.decode(whole)[0].transfer_syntax_uid
