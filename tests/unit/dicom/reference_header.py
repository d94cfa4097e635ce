"""The header of a dataset as pydicom parses it: what `libs/dicom/header.py` must say, too.

Two things differ on purpose from what it was when it was in use: sequences are converted after all other values are
taken, because pydicom converts others with them, which then were missing; and elements are taken without `get_item`,
for the same reason.
"""

import io
import struct
import warnings
import zlib
from dataclasses import dataclass
from typing import Any, BinaryIO, Final

from pydicom.charset import convert_encodings
from pydicom.datadict import keyword_for_tag, tag_for_keyword
from pydicom.dataelem import DataElement, RawDataElement
from pydicom.dataset import Dataset
from pydicom.filereader import read_dataset
from pydicom.sequence import Sequence
from pydicom.tag import BaseTag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from contracts.fact import Attributes
from tests.unit.dicom import reference_element as element

#: Attributes that every event about an instance carries, if they have a value.
BASE_KEYWORDS: Final = (
    *("SpecificCharacterSet", "ImageType", "SOPClassUID", "SOPInstanceUID"),
    *("StudyDate", "SeriesDate", "AcquisitionDate", "ContentDate", "AcquisitionDateTime"),
    *("StudyTime", "SeriesTime", "AcquisitionTime", "ContentTime", "TimezoneOffsetFromUTC"),
    *("AccessionNumber", "Modality", "ModalitiesInStudy", "ConversionType", "Manufacturer", "InstitutionName"),
    *("ReferringPhysicianName", "StationName", "StudyDescription", "SeriesDescription"),
    *("InstitutionalDepartmentName", "PerformingPhysicianName", "OperatorsName", "ManufacturerModelName"),
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge"),
    *("PatientSize", "PatientWeight", "PatientComments", "PatientIdentityRemoved"),
    *("ContrastBolusAgent", "BodyPartExamined", "SliceThickness", "DeviceSerialNumber", "SoftwareVersions"),
    *("ProtocolName", "ViewPosition", "StudyInstanceUID", "SeriesInstanceUID", "StudyID"),
    *("SeriesNumber", "AcquisitionNumber", "InstanceNumber", "ImageLaterality", "Laterality"),
    *("FrameOfReferenceUID", "NumberOfFrames", "SamplesPerPixel", "PhotometricInterpretation"),
    *("Rows", "Columns", "BitsAllocated", "BitsStored", "BurnedInAnnotation", "LossyImageCompression"),
    *("RequestingPhysician", "RequestedProcedureDescription", "RequestedProcedureID", "PerformedProcedureStepID"),
    *("PerformedProcedureStepDescription", "CompletionFlag", "VerificationFlag", "PresentationIntentType"),
    *("NumberOfStudyRelatedInstances", "NumberOfSeriesRelatedInstances", "InConcatenationTotalNumber"),
)
_BASE_TAGS: Final = {tag: keyword for keyword in BASE_KEYWORDS if (tag := tag_for_keyword(keyword)) is not None}
#: Pixel data and its kin (7FE0,xxxx) and whatever follows are not part of the header.
_PIXELS: Final = 0x7FE00000
_CHARACTER_SET: Final = 0x00080005
#: No real header comes near; a deflated dataset is not inflated further, so that it can't fill the memory.
_LONGEST_HEADER: Final = 64 << 20
_DEEPEST: Final = 16
#: What pydicom raises on bytes that are no dataset.
_UNREADABLE: Final = (
    *(ValueError, TypeError, KeyError, IndexError, AttributeError, EOFError, OSError, OverflowError),
    *(NotImplementedError, AssertionError, RecursionError, MemoryError, struct.error, zlib.error),
)


class UnreadableDatasetError(Exception):
    """The bytes are not a dataset in the transfer syntax that was negotiated. The text holds no values."""


@dataclass(frozen=True)
class Header:
    """What a dataset says of itself.

    Attributes
    ----------
    sop_class_uid, sop_instance_uid, study_instance_uid, series_instance_uid
        As they stand there, empty if absent, not checked.
    attributes
        Base attributes by keyword.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str
    attributes: Attributes


def read(dataset: BinaryIO, transfer_syntax: str) -> Header:
    """Read identity and base attributes.

    Parameters
    ----------
    dataset
        Positioned at the dataset's first byte; read no further than the pixel data.
    transfer_syntax
        UID of the transfer syntax that was negotiated, PS3.5 section 10.

    Raises
    ------
    UnreadableDatasetError
        The bytes are no dataset, or end inside the header.
    """
    return _header(_read(dataset, transfer_syntax))


def read_whole(dataset: BinaryIO, transfer_syntax: str) -> tuple[Header, dict[str, Any]]:
    """Read identity and base attributes, and the whole header after the pattern of the DICOM JSON Model.

    Returns
    -------
    tuple of Header and dict
        The dict (PS3.18 annex F) has tag (eight hexadecimal digits) to `{"vr": ..., "keyword": ..., "Value": [...]}`.
        Person names are plain text, binary values are left out, and values that can't be read have no `Value`.

    Raises
    ------
    UnreadableDatasetError
        As for `read`.
    """
    raw = _read(dataset, transfer_syntax)
    return _header(raw), _document(raw, ["iso8859"], 0)


def _header(raw: Dataset) -> Header:
    encodings = _encodings(raw, ["iso8859"])
    attributes: Attributes = {}
    for tag, keyword in _BASE_TAGS.items():
        value = element.attribute(tag, _values(raw, tag, encodings))
        if value is not None:
            attributes[keyword] = value
    return Header(
        sop_class_uid=str(attributes.get("SOPClassUID", "")),
        sop_instance_uid=str(attributes.get("SOPInstanceUID", "")),
        study_instance_uid=str(attributes.get("StudyInstanceUID", "")),
        series_instance_uid=str(attributes.get("SeriesInstanceUID", "")),
        attributes=attributes,
    )


def _read(dataset: BinaryIO, transfer_syntax: str) -> Dataset:
    try:
        with warnings.catch_warnings():
            # A warning may quote a value.
            warnings.simplefilter("ignore")
            raw = read_dataset(
                _inflated(dataset) if transfer_syntax == DeflatedExplicitVRLittleEndian else dataset,
                transfer_syntax == ImplicitVRLittleEndian,
                transfer_syntax != ExplicitVRBigEndian,
                stop_when=lambda tag, _vr, _length: tag >= _PIXELS,
            )
    except _UNREADABLE as error:
        raise UnreadableDatasetError(f"the dataset cannot be parsed ({type(error).__name__})") from error
    if not raw:
        raise UnreadableDatasetError("the dataset holds no element")
    for tag in raw.keys():  # noqa: SIM118 (iterating a Dataset converts its elements)
        item = _item(raw, tag)
        if isinstance(item, RawDataElement) and item.value is not None and len(item.value) < item.length < 0xFFFFFFFF:
            raise UnreadableDatasetError(f"the dataset ends inside the value of ({tag.group:04X},{tag.element:04X})")
    return raw


def _inflated(dataset: BinaryIO) -> io.BytesIO:
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    header = io.BytesIO()
    while header.tell() < _LONGEST_HEADER and not inflate.eof and (chunk := dataset.read(1 << 16)):
        header.write(inflate.decompress(chunk, _LONGEST_HEADER - header.tell()))
    header.seek(0)
    return header


def _item(raw: Dataset, tag: int) -> RawDataElement | DataElement:
    # Not by `get_item`, which converts private creators on its way.
    return raw._dict[BaseTag(tag)]


def _values(raw: Dataset, tag: int, encodings: element.Encodings) -> list[element.Value]:
    if tag not in raw:
        return []
    item = _item(raw, tag)
    if not isinstance(item, RawDataElement) or not item.value:
        return []
    vr = item.VR if item.VR not in (None, "UN") else element.known_vr(tag)
    if " or " in vr:
        # Such as `US or SS`: which one depends on Pixel Representation, and no base attribute among them is negative.
        vr = vr.split(" or ", 1)[0]
    return element.values(vr, item.value, encodings, little_endian=item.is_little_endian)


def _encodings(raw: Dataset, parent: list[str]) -> list[str]:
    named = [str(each) for each in _values(raw, _CHARACTER_SET, ["ascii"])]
    if not named:
        return parent
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return convert_encodings(named)
    except _UNREADABLE:
        return ["iso8859"]


def _document(raw: Dataset, parent: list[str], depth: int) -> dict[str, Any]:
    encodings = _encodings(raw, parent)
    found: dict[str, Any] = {}
    sequences: list[BaseTag] = []
    for tag in sorted(raw.keys()):
        item = _item(raw, tag)
        vr = item.VR if item.VR not in (None, "UN") else element.known_vr(tag)
        entry: dict[str, Any] = {"vr": vr}
        if vr == "SQ":
            sequences.append(tag)
        else:
            values = _values(raw, tag, encodings)
            if values:
                entry["Value"] = values
        if keyword := keyword_for_tag(tag):
            entry["keyword"] = keyword
        found[f"{tag:08X}"] = entry
    for sequence in sequences if depth < _DEEPEST else []:
        found[f"{sequence:08X}"]["Value"] = [_document(each, encodings, depth + 1) for each in _items(raw, sequence)]
    return found


def _items(raw: Dataset, tag: int) -> list[Dataset]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = raw[tag].value
    except _UNREADABLE:
        return []
    return list(value) if isinstance(value, Sequence) else []
