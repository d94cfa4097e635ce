"""Builders of small, valid Part 10 files that take only what matters to the test."""

import random
import struct
from pathlib import Path
from typing import Any
from uuid import uuid4

from pydicom.datadict import dictionary_VR, tag_for_keyword

CT_IMAGE_STORAGE = "1.2.840.10008.5.1.4.1.1.2"
#: Private SOP class of a vendor (Siemens CSA Non-Image), which the dictionary of the Standard does not hold.
PRIVATE_STORAGE = "1.3.12.2.1107.5.9.1"
EXPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2.1"
IMPLICIT_LITTLE_ENDIAN = "1.2.840.10008.1.2"
_LONG_LENGTH = ("OB", "OW", "SQ", "UN", "UT")
_PIXEL_DATA = 0x7FE00010


def new_uid() -> str:
    """Make a UID that nobody else has (PS3.5 section B.2)."""
    return f"2.25.{uuid4().int}"


def make_ct(
    folder: Path,
    *,
    study_uid: str | None = None,
    series_uid: str | None = None,
    sop_uid: str | None = None,
    sop_class: str = CT_IMAGE_STORAGE,
    rows: int = 16,
    cols: int = 16,
    implicit: bool = False,
    **attributes: str | int | None,
) -> Path:
    """Write one 16 bit monochrome image as `FOLDER/SOP_INSTANCE_UID.dcm` and give its path.

    Parameters
    ----------
    study_uid, series_uid, sop_uid
        New ones where left out.
    sop_class
        SOP class, also a private one.
    rows, cols
        Size in pixels; the file is about 2 x rows x cols bytes long. The pixels differ for each SOP Instance UID.
    implicit
        Implicit instead of Explicit VR Little Endian.
    attributes
        Elements by DICOM keyword; a text in the default character set, a number for US, None to leave one out.
    """
    sop_uid = sop_uid or new_uid()
    values: dict[str, str | int | None] = {
        "SOPClassUID": sop_class,
        "SOPInstanceUID": sop_uid,
        "StudyInstanceUID": study_uid or new_uid(),
        "SeriesInstanceUID": series_uid or new_uid(),
        "StudyDate": "20260115",
        "StudyTime": "101500",
        "AccessionNumber": "A1",
        "Modality": "CT",
        "PatientName": "Test^Patient",
        "PatientID": "P1",
        "PatientBirthDate": "19700101",
        "PatientSex": "O",
        "StudyID": "1",
        "SeriesNumber": "1",
        "InstanceNumber": "1",
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "Rows": rows,
        "Columns": cols,
        "BitsAllocated": 16,
        "BitsStored": 12,
        "HighBit": 11,
        "PixelRepresentation": 0,
        **attributes,
    }
    elements = {
        _tag(keyword): (dictionary_VR(_tag(keyword)), value) for keyword, value in values.items() if value is not None
    }
    dataset = b"".join(
        _element(tag, vr, _encoded(vr, value), implicit) for tag, (vr, value) in sorted(elements.items())
    )
    # Pixels from the UID: instances differ from each other, and one that is made again is the same.
    pixels = random.Random(sop_uid).randbytes(rows * cols * 2)
    dataset += _element(_PIXEL_DATA, "OW", pixels, implicit)
    path = folder / f"{sop_uid}.dcm"
    syntax = IMPLICIT_LITTLE_ENDIAN if implicit else EXPLICIT_LITTLE_ENDIAN
    path.write_bytes(part10(dataset, sop_class=sop_class, sop_uid=sop_uid, transfer_syntax=syntax))
    return path


def make_study(
    folder: Path, count: int, *, study_uid: str | None = None, rows: int = 16, cols: int = 16, **attributes: str
) -> list[Path]:
    """Write one study of one series with `count` images, numbered from 1."""
    study_uid, series_uid = study_uid or new_uid(), new_uid()
    paths = []
    for number in range(1, count + 1):
        values: dict[str, Any] = {"InstanceNumber": str(number), **attributes}
        paths.append(make_ct(folder, study_uid=study_uid, series_uid=series_uid, rows=rows, cols=cols, **values))
    return paths


def part10(dataset: bytes, *, sop_class: str, sop_uid: str, transfer_syntax: str) -> bytes:
    """Put preamble and group 0002 in front of an encoded dataset (PS3.10 section 7.1)."""
    meta = [
        (0x00020001, "OB", b"\x00\x01"),
        (0x00020002, "UI", _encoded("UI", sop_class)),
        (0x00020003, "UI", _encoded("UI", sop_uid)),
        (0x00020010, "UI", _encoded("UI", transfer_syntax)),
        (0x00020012, "UI", _encoded("UI", "2.25.1")),
    ]
    group = b"".join(_element(tag, vr, value) for tag, vr, value in meta)
    return bytes(128) + b"DICM" + _element(0x00020000, "UL", struct.pack("<I", len(group))) + group + dataset


def _tag(keyword: str) -> int:
    tag = tag_for_keyword(keyword)
    if tag is None:
        raise ValueError(f"{keyword} is not a keyword of PS3.6")
    return tag


def _encoded(vr: str, value: str | int) -> bytes:
    if vr in ("US", "US or SS"):
        return struct.pack("<H", int(value))
    data = str(value).encode("ascii")
    return data + (b"\0" if vr == "UI" else b" ") * (len(data) % 2)


def _element(tag: int, vr: str, value: bytes, implicit: bool = False) -> bytes:
    """Encode one element (PS3.5 section 7.1.2 and 7.1.3)."""
    head = struct.pack("<HH", tag >> 16, tag & 0xFFFF)
    if implicit:
        return head + struct.pack("<I", len(value)) + value
    if vr in _LONG_LENGTH:
        return head + vr.encode() + bytes(2) + struct.pack("<I", len(value)) + value
    return head + vr.encode() + struct.pack("<H", len(value)) + value
