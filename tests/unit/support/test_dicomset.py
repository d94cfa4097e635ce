from pathlib import Path

import pytest
from pydicom import dcmread
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGBaseline8Bit,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from tests.support.dicomset import dataset_bytes, real_files, rt_set
from tests.support.synthetic import PRIVATE_STORAGE, make_ct, make_study

pytestmark = pytest.mark.unit


def test_the_real_set_has_what_a_country_sends() -> None:
    files = real_files()
    assert len({each.sop_uid for each in files}) == len(files)
    assert {"CT", "MR", "US", "SR", "CR", "SEG", "ECG"} <= {each.modality for each in files}
    assert {
        ImplicitVRLittleEndian,
        ExplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        JPEGBaseline8Bit,
        JPEGLosslessSV1,
        JPEG2000Lossless,
        JPEGLSLossless,
        RLELossless,
    } <= {each.transfer_syntax for each in files}
    assert all(each.study_uid and each.series_uid for each in files)


def test_radiotherapy_files_agree_with_their_meta(tmp_path: Path) -> None:
    for path in rt_set(tmp_path):
        read = dcmread(path)
        assert read.file_meta.MediaStorageSOPInstanceUID == read.SOPInstanceUID


@pytest.mark.parametrize("implicit", [False, True])
def test_a_built_image_reads_as_it_was_asked_for(tmp_path: Path, *, implicit: bool) -> None:
    path = make_ct(
        tmp_path,
        study_uid="1.2.3",
        sop_class=PRIVATE_STORAGE,
        rows=4,
        cols=6,
        implicit=implicit,
        PatientID="X",
        StudyID=None,
    )
    read = dcmread(path)
    assert (read.StudyInstanceUID, read.SOPClassUID, read.PatientID) == ("1.2.3", PRIVATE_STORAGE, "X")
    assert "StudyID" not in read
    assert read.file_meta.TransferSyntaxUID.is_implicit_VR is implicit
    assert len(read.PixelData) == 4 * 6 * 2
    assert path.read_bytes().endswith(dataset_bytes(path))
    assert dataset_bytes(path)[:4] == b"\x08\x00\x16\x00"


def test_a_built_study_is_one_series_of_different_images(tmp_path: Path) -> None:
    read = [dcmread(path) for path in make_study(tmp_path, 3)]
    assert len({each.SeriesInstanceUID for each in read}) == 1
    assert len({each.SOPInstanceUID for each in read}) == len({each.PixelData for each in read}) == 3
