"""A real multi-modality set out of the files of pydicom and pydicom-data, and the parts of a Part 10 file."""

import os
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pydicom.data
from pydicom import dcmread
from pydicom.data.data_manager import external_data_sources
from pydicom.uid import UID

#: Files with a SOP Instance UID of their own each, and why they are in the set.
_CHOSEN = {
    "CT_small.dcm": "CT, private elements",
    "693_UNCI.dcm": "CT, 512 x 512",
    "693_J2KR.dcm": "CT, JPEG 2000 lossless",
    "J2K_pixelrep_mismatch.dcm": "CT, ISO 2022 IR 13 and 87",
    "17106": "CT of a DICOMDIR, header only",
    "17136": "CT, second of the same series",
    "17166": "CT, third of the same series",
    "eCT_Supplemental.dcm": "Enhanced CT, 2 frames, functional groups",
    "MR_small.dcm": "MR",
    "MR-SIEMENS-DICOM-WithOverlays.dcm": "MR, overlays, private elements",
    "MR2_J2KR.dcm": "MR, JPEG 2000 lossless",
    "4919": "MR of a DICOMDIR",
    "emri_small_jpeg_ls_lossless.dcm": "Enhanced MR, JPEG-LS, 10 frames",
    "examples_rgb_color.dcm": "US, RGB",
    "color-pl.dcm": "US, palette colour",
    "examples_ybr_color.dcm": "US multi-frame, JPEG baseline, 30 frames",
    "OBXXXX1A_rle_2frame.dcm": "US multi-frame, RLE",
    "ExplVR_BigEnd.dcm": "US, explicit big endian",
    "gdcm-US-ALOKA-16.dcm": "US, implicit little endian",
    "US1_J2KI.dcm": "US, JPEG 2000 lossy",
    "JPGLosslessP14SV1_1s_1f_8b.dcm": "US, JPEG lossless",
    "JPEG-LL.dcm": "NM as secondary capture, JPEG lossless",
    "JPEG-lossy.dcm": "JPEG extended, 12 bit",
    "SC_rgb_small_odd_jpeg.dcm": "JPEG baseline, odd length",
    "SC_rgb_small_odd.dcm": "odd length, uncompressed",
    "image_dfl.dcm": "deflated",
    "liver.dcm": "segmentation, 1 bit, 3 frames",
    "RG3_J2KR.dcm": "CR, JPEG 2000 lossless",
    "6154": "CR of a DICOMDIR",
    "test-SR.dcm": "Comprehensive SR",
    "reportsi.dcm": "Basic Text SR",
    "waveform_ecg.dcm": "12-lead ECG",
    "chrArab.dcm": "ISO_IR 127",
    "chrFrenMulti.dcm": "ISO_IR 100",
    "chrGreek.dcm": "ISO_IR 126",
    "chrH31.dcm": "ISO 2022 IR 87",
    "chrH32.dcm": "ISO 2022 IR 13 and 87",
    "chrHbrw.dcm": "ISO_IR 138",
    "chrI2.dcm": "ISO 2022 IR 149",
    "chrKoreanMulti.dcm": "CR, ISO 2022 IR 149",
    "chrRuss.dcm": "ISO_IR 144",
    "chrX1.dcm": "ISO_IR 192",
    "chrX2.dcm": "GB18030",
}


@dataclass(frozen=True)
class RealFile:
    """One file of the set, with what its header says."""

    path: Path
    why: str
    study_uid: str
    series_uid: str
    sop_uid: str
    sop_class: UID
    transfer_syntax: UID
    modality: str


@cache
def real_files() -> tuple[RealFile, ...]:
    """Read the headers of the set.

    Raises
    ------
    FileNotFoundError
        pydicom or pydicom-data no longer ships one of the files.
    """
    folders = [Path(pydicom.data.__file__).parent, Path(external_data_sources()["pydicom-data"].data_path)]
    found = {name: Path(folder, name) for top in folders for folder, _, names in os.walk(top) for name in names}
    missing = sorted(_CHOSEN.keys() - found.keys())
    if missing:
        raise FileNotFoundError(f"not among the files of pydicom {pydicom.__version__} and pydicom-data: {missing}")
    return tuple(_described(found[name], why) for name, why in _CHOSEN.items())


def real_set() -> list[Path]:
    """List the files of the set: valid Part 10 files whose SOP Instance UIDs all differ."""
    return [each.path for each in real_files()]


def _described(path: Path, why: str) -> RealFile:
    header = dcmread(path, stop_before_pixels=True)
    return RealFile(
        path=path,
        why=why,
        study_uid=str(header.StudyInstanceUID),
        series_uid=str(header.SeriesInstanceUID),
        sop_uid=str(header.SOPInstanceUID),
        sop_class=header.SOPClassUID,
        transfer_syntax=header.file_meta.TransferSyntaxUID,
        modality=str(header.get("Modality", "")),
    )


def rt_set(folder: Path) -> list[Path]:
    """Write an RT Plan and an RT Dose, implicit little endian, into a folder.

    pydicom ships them with a group 0002 that names another instance than the dataset does; here both agree.
    """
    written = []
    for name in ("rtplan.dcm", "rtdose.dcm"):
        dataset = dcmread(Path(pydicom.data.__file__).parent / "test_files" / name)
        dataset.file_meta.MediaStorageSOPInstanceUID = dataset.SOPInstanceUID
        dataset.save_as(folder / name, enforce_file_format=True)
        written.append(folder / name)
    return written


def dataset_bytes(path: Path) -> bytes:
    """Give the dataset of a Part 10 file as it stands there, without preamble and group 0002 (PS3.10 section 7.1)."""
    return dataset_of(path.read_bytes())


def dataset_of(data: bytes) -> bytes:
    """Give the dataset out of the bytes of a Part 10 file. Raises ValueError if they are none."""
    if data[128:132] != b"DICM":
        raise ValueError("not a Part 10 file")
    at = 132
    while data[at : at + 2] == b"\x02\x00":
        # Group 0002 is always Explicit VR Little Endian (PS3.10 section 7.1); OB and UN have a four-byte length.
        if data[at + 4 : at + 6] in (b"OB", b"UN"):
            at += 12 + int.from_bytes(data[at + 8 : at + 12], "little")
        else:
            at += 8 + int.from_bytes(data[at + 6 : at + 8], "little")
    return data[at:]
