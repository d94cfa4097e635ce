"""Real files in another transfer syntax hold what pydicom and dcmtk say that they hold."""

import io
import os
import subprocess
import warnings
from functools import cache
from pathlib import Path

import pydicom.data
import pytest
from pydicom.data.data_manager import external_data_sources
from pydicom.datadict import dictionary_VR
from pydicom.dataelem import RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence

from libs.dicom import part10
from libs.dicom.part10 import NotPart10Error
from libs.dicom.reencode import NotReencodableError, can_reencode, reencoded
from tests.support.process import program

pytestmark = pytest.mark.unit

IMPLICIT, EXPLICIT, BIG, DEFLATED = (
    "1.2.840.10008.1.2",
    "1.2.840.10008.1.2.1",
    "1.2.840.10008.1.2.2",
    "1.2.840.10008.1.2.1.99",
)
WORDS = {
    **dict.fromkeys(("US", "SS", "OW", "AT", "US or SS", "OB or OW", "US or OW"), 2),
    **dict.fromkeys(("UL", "SL", "FL", "OF", "OL"), 4),
    **dict.fromkeys(("FD", "OD", "SV", "UV", "OV"), 8),
}
#: Files that are refused, and why.
REFUSED = {
    "MR_truncated.dcm": "ends inside an element",
    "rtplan_truncated.dcm": "ends inside an element",
    "DICOMDIR-nooffset": "longer than what it stands in",
    # Their writer swapped four bytes at a time; dcmtk, by the Standard, swaps two, and reads other doses.
    "rtdose_expb.dcm": "wider than 16 bits",
    "rtdose_expb_1frame.dcm": "wider than 16 bits",
}
#: A place in a dataset (tags, and numbers of items), the VR that it says, and the value.
Content = tuple[tuple[int, ...], str, bytes]


@cache
def uncompressed() -> dict[str, Path]:
    """Find the files of pydicom and pydicom-data whose transfer syntax can be re-encoded."""
    folders = [Path(pydicom.data.__file__).parent, Path(external_data_sources()["pydicom-data"].data_path)]
    found: dict[str, Path] = {}
    for path in sorted(Path(folder, name) for top in folders for folder, _, names in os.walk(top) for name in names):
        with path.open("rb") as file:
            try:
                meta, _ = part10.decode(file)
            except NotPart10Error:
                continue
            if can_reencode(meta.transfer_syntax_uid, IMPLICIT) or can_reencode(meta.transfer_syntax_uid, EXPLICIT):
                found.setdefault(path.name, path)
    return found


def syntax_of(path: Path) -> str:
    """Give the transfer syntax of a file."""
    with path.open("rb") as file:
        return part10.decode(file)[0].transfer_syntax_uid


def own(path: Path, target: str) -> bytes:
    """Re-encode the dataset of a file."""
    with path.open("rb") as file:
        meta, _ = part10.decode(file)
        return b"".join(reencoded(file, meta.transfer_syntax_uid, target))


def dataset_in(path: Path) -> tuple[bytes, str]:
    """Give the dataset of a file, inflated if it was deflated, and its transfer syntax."""
    with path.open("rb") as file:
        meta, _ = part10.decode(file)
        if meta.transfer_syntax_uid == DEFLATED:
            return b"".join(reencoded(file, DEFLATED, EXPLICIT)), EXPLICIT
        return file.read(), meta.transfer_syntax_uid


def contents(data: bytes, syntax: str) -> list[Content]:
    """List what pydicom finds in a dataset: values little endian and of even length, without group lengths."""
    with warnings.catch_warnings():
        # A warning is about the file, and may quote it.
        warnings.simplefilter("ignore")
        return list(_contents(read_dataset(io.BytesIO(data), syntax == IMPLICIT, syntax != BIG), ()))


def _contents(dataset: Dataset, place: tuple[int, ...]) -> list[Content]:
    found: list[Content] = []
    # A copy: pydicom converts some elements as it converts others.
    for tag, element in sorted(dataset._dict.items()):
        if not tag & 0xFFFF:
            continue
        here = (*place, int(tag))
        vr = _vr(tag, str(element.VR or ""))
        if vr != "SQ" and isinstance(element, RawDataElement):
            value = element.value or b""
            if not element.is_little_endian:
                word = WORDS.get(vr, 1)
                value = b"".join(value[at : at + word][::-1] for at in range(0, len(value), word))
            found.append((here, str(element.VR or ""), value + b"\0" * (len(value) % 2)))
            continue
        items = dataset[tag].value
        assert isinstance(items, Sequence)
        found.append((here, "SQ", b""))
        for number, item in enumerate(items):
            found += _contents(item, (*here, number))
    return found


def _vr(tag: int, said: str) -> str:
    if said not in ("", "UN"):
        return said
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return "UN"


def padded(found: list[Content]) -> list[tuple[tuple[int, ...], bytes]]:
    """Give places and values; what pads an odd value is not told apart."""
    return [(place, value[:-1] + b"\0" if value[-1:] == b" " else value) for place, _, value in found]


def dcmconv(path: Path, target: str, folder: Path) -> bytes:
    """Have dcmtk convert a file; give the dataset. As written there: nothing corrected, no lengths of sequences."""
    flag = {IMPLICIT: "+ti", EXPLICIT: "+te"}[target]
    out = folder / "converted"
    command = [program("dcmconv", "dcmtk"), "-q", "+F", "-dc", "-e", flag, str(path), str(out)]
    subprocess.run(command, capture_output=True, check=True, timeout=240)
    return dataset_in(out)[0]


def conversions(*, refused: bool = False) -> list[tuple[str, str]]:
    """List names of files, and the transfer syntaxes in which they can be given."""
    return [
        (name, target)
        for name, path in uncompressed().items()
        for target in (IMPLICIT, EXPLICIT)
        if can_reencode(syntax_of(path), target) and refused == (name in REFUSED)
    ]


@pytest.mark.parametrize(("name", "target"), conversions())
def test_pydicom_finds_the_same_in_it(name: str, target: str) -> None:
    path = uncompressed()[name]
    before = contents(*dataset_in(path))
    after = contents(own(path, target), target)
    assert padded(after) == padded(before)
    if target == EXPLICIT:
        for place, vr, _ in after:
            if not place[-1] >> 16 & 1:
                assert vr in _vr(place[-1], "").split(" or ")


@pytest.mark.parametrize(("name", "target"), conversions())
def test_it_holds_what_dcmtk_makes_of_it(name: str, target: str, tmp_path: Path) -> None:
    path = uncompressed()[name]
    theirs = contents(dcmconv(path, target, tmp_path), target)
    ours = contents(own(path, target), target)
    assert padded(ours) == padded(theirs)
    # Of private elements dcmtk knows many VRs.
    public = [found for found in zip(ours, theirs, strict=True) if not found[0][0][-1] >> 16 & 1]
    assert [our[1] for our, _ in public] == [their[1] for _, their in public]


@pytest.mark.parametrize(("name", "target"), [each for each in conversions() if each[1] == IMPLICIT])
def test_there_and_back_every_value_is_as_it_was(name: str, target: str) -> None:
    path = uncompressed()[name]
    there = own(path, target)
    back = b"".join(reencoded(io.BytesIO(there), IMPLICIT, EXPLICIT))
    assert padded(contents(back, EXPLICIT)) == padded(contents(*dataset_in(path)))
    assert b"".join(reencoded(io.BytesIO(back), EXPLICIT, IMPLICIT)) == there


@pytest.mark.parametrize(("name", "target"), conversions(refused=True))
def test_what_is_damaged_is_refused(name: str, target: str) -> None:
    with pytest.raises(NotReencodableError, match=REFUSED[name]):
        own(uncompressed()[name], target)


def test_there_are_files_of_every_transfer_syntax() -> None:
    assert {syntax_of(path) for path in uncompressed().values()} == {IMPLICIT, EXPLICIT, BIG, DEFLATED}
    assert uncompressed().keys() >= REFUSED.keys()
