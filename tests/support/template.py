"""Datasets whose UIDs are changed in place, so that making an instance costs next to nothing."""

import hashlib
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory

import pydicom
from pydicom.uid import UID, ExplicitVRLittleEndian

from tests.support.dicomset import dataset_bytes, real_files
from tests.support.synthetic import CT_IMAGE_STORAGE, make_ct

#: Every UID of a template is as long: `2.25.` and 39 digits (PS3.5 section B.2).
_STUDY, _SERIES, _SOP = (f"2.25.{digit * 39}" for digit in "123")
_NUMBER = "987654"
SYNTAX = str(ExplicitVRLittleEndian)


def uid(number: int) -> str:
    """Give a UID of the length of a template's for a number below 2**127."""
    return f"2.25.{10**38 + number}"


@dataclass(frozen=True)
class Template:
    """An encoded dataset and where its UIDs stand.

    Attributes
    ----------
    dataset
        Explicit VR Little Endian.
    sop_class
        SOP Class UID.
    """

    dataset: bytes
    sop_class: str

    def image(self) -> "Image":
        """Give a copy that can be changed."""
        return Image(self)


class Image:
    """One dataset; `become` makes it another instance."""

    def __init__(self, template: Template) -> None:
        self.dataset = bytearray(template.dataset)
        self.sop_class = template.sop_class
        self.sop_uid = _SOP
        self._study, self._series, self._sop = (_places(template.dataset, each) for each in (_STUDY, _SERIES, _SOP))
        self._number = _places(template.dataset, _NUMBER)

    def become(self, study_uid: str, series_uid: str, sop_uid: str, number: int) -> None:
        """Become the instance with these UIDs, each made by `uid`, and this Instance Number."""
        self.sop_uid = sop_uid
        for places, value in (
            (self._study, study_uid),
            (self._series, series_uid),
            (self._sop, sop_uid),
            (self._number, f"{number:06d}"),
        ):
            text = value.encode()
            for at in places:
                self.dataset[at : at + len(text)] = text

    @property
    def digest(self) -> str:
        """SHA-256 of the dataset, which is its content hash, 64 hexadecimal digits."""
        return hashlib.sha256(self.dataset).hexdigest()


@cache
def ct512() -> Template:
    """Give a real CT header with 512 x 512 pixels, 0.53 MB."""
    found = pydicom.dcmread(next(each.path for each in real_files() if each.path.name == "693_UNCI.dcm"))
    found.StudyInstanceUID, found.SeriesInstanceUID, found.SOPInstanceUID = UID(_STUDY), UID(_SERIES), UID(_SOP)
    found.file_meta.MediaStorageSOPInstanceUID = UID(_SOP)
    found.InstanceNumber = _NUMBER
    written = BytesIO()
    pydicom.dcmwrite(written, found, enforce_file_format=True)
    with TemporaryDirectory() as folder:
        path = Path(folder, "ct.dcm")
        path.write_bytes(written.getvalue())
        return Template(dataset_bytes(path), str(found.SOPClassUID))


@cache
def small(pixels: int = 64) -> Template:
    """Give a CT image of 64 x 64 pixels with 24 elements, 9 kB."""
    with TemporaryDirectory() as folder:
        path = make_ct(
            Path(folder),
            study_uid=_STUDY,
            series_uid=_SERIES,
            sop_uid=_SOP,
            rows=pixels,
            cols=pixels,
            InstanceNumber=_NUMBER,
        )
        return Template(dataset_bytes(path), CT_IMAGE_STORAGE)


def _places(dataset: bytes, text: str) -> list[int]:
    found, at = [], dataset.find(text.encode())
    while at >= 0:
        found.append(at)
        at = dataset.find(text.encode(), at + 1)
    if not found:
        raise ValueError(f"the template does not hold {text}")
    return found
