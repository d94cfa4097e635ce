"""The own reading of headers says what pydicom's says, where the bytes are a dataset by the Standard."""

import io
import struct
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from libs.dicom import charset, element, header
from tests.support.dicomset import RealFile, dataset_bytes, real_files
from tests.unit.dicom import reference_element, reference_header

pytestmark = pytest.mark.unit

UNREADABLE = "unreadable"


def ours(data: bytes, syntax: str) -> Any:
    try:
        found, document = header.read_whole(io.BytesIO(data), syntax)
    except header.UnreadableDatasetError:
        return UNREADABLE
    return vars(found), document


def reference(data: bytes, syntax: str) -> Any:
    try:
        found, document = reference_header.read_whole(io.BytesIO(data), syntax)
    except reference_header.UnreadableDatasetError:
        return UNREADABLE
    return vars(found), document


@pytest.mark.parametrize("file", real_files(), ids=lambda file: file.path.name)
def test_real_files_read_the_same(file: RealFile) -> None:
    data = dataset_bytes(file.path)
    assert ours(data, file.transfer_syntax) == reference(data, file.transfer_syntax)
    assert ours(data, file.transfer_syntax) != UNREADABLE
    whole, _ = header.read_whole(io.BytesIO(data), file.transfer_syntax)
    assert header.read(io.BytesIO(data), file.transfer_syntax) == whole
    said = header.identity(data[: 1 << 16], file.transfer_syntax)
    assert said == header.Identity(file.sop_class, file.sop_uid, file.study_uid, file.series_uid)
