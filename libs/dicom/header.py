"""The header of a dataset: everything before the pixel data, from bytes in any transfer syntax."""

import io
import zlib
from collections.abc import Container
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, Final, Protocol

from pydicom.datadict import tag_for_keyword
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRBigEndian, ImplicitVRLittleEndian

from contracts.fact import Attributes, AttributeValue
from libs.dicom import charset, document, element, tokenizer
from libs.dicom.inflated import Inflated
from libs.dicom.tokenizer import Form, Raw, Rest

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
_CHARACTER_SET: Final = 0x00080005
_SERIES: Final = 0x0020000E
_UIDS: Final = {
    0x00080016: "SOPClassUID",
    0x00080018: "SOPInstanceUID",
    0x0020000D: "StudyInstanceUID",
    _SERIES: "SeriesInstanceUID",
}
_IDENTITY_TAGS: Final = frozenset({_CHARACTER_SET, *_UIDS})
_BASE_AND_IDENTITY: Final = frozenset({*_BASE_TAGS, *_IDENTITY_TAGS})
_LAST_BASE: Final = max(_BASE_AND_IDENTITY)
#: No real header comes near; neither a sequence nor a deflated dataset is held further, so that none fills the memory.
_LONGEST_HEADER: Final = 64 << 20
_CHUNK: Final = 1 << 14
#: Longer values are not kept for the next instance.
_LONGEST_KEPT: Final = 128


class UnreadableDatasetError(Exception):
    """The bytes are not a dataset in the transfer syntax that was negotiated. The text holds no values."""


@dataclass(frozen=True)
class Identity:
    """Who a dataset says it is: as it stands there, empty if absent, not checked."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str


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


class _Source(Protocol):
    def read(self, length: int, /) -> bytes: ...


def identity(first: bytes | memoryview, transfer_syntax: str) -> Identity | None:
    """Read the identity from the first bytes of a dataset, as soon as it is certain.

    It is certain when all four identifiers stood in their place and the element after them has begun. What it gives
    is what `read` gives. Where it stays None although the dataset is at its end (elements out of order, or absent),
    only `read` tells.

    Parameters
    ----------
    first
        The dataset from its first byte on, however much there is. For a deflated one: the deflated bytes.
    transfer_syntax
        UID of the transfer syntax that was negotiated, PS3.5 section 10.

    Returns
    -------
    Identity or None
        None while more bytes are needed.

    Raises
    ------
    UnreadableDatasetError
        These bytes are not the beginning of a dataset.
    """
    found: dict[int, Raw] = {}
    try:
        if transfer_syntax == DeflatedExplicitVRLittleEndian:
            source = Inflated(io.BytesIO(first), _LONGEST_HEADER)
            data = source.read(_CHUNK)
            form = tokenizer.form_of(data, _said(transfer_syntax))
            _, rest = _gather(source, data, 0, found, form, _IDENTITY_TAGS, _SERIES + 1)
        else:
            data = bytes(first)
            form = tokenizer.form_of(data, _said(transfer_syntax))
            rest = tokenizer.scan(data, 0, found, form, wanted=_IDENTITY_TAGS, stop=_SERIES + 1)
    except (tokenizer.MalformedError, zlib.error) as error:
        raise _unreadable(error) from error
    if rest.tag >= tokenizer.PIXELS and not rest.at:
        raise UnreadableDatasetError("the dataset holds no element before its pixel data")
    if rest.need or not found.keys() >= _UIDS.keys():
        return None
    return Identity(*(_uid(found, tag, form) for tag in _UIDS))


def read(dataset: BinaryIO, transfer_syntax: str) -> Header:
    """Read identity and base attributes.

    Parameters
    ----------
    dataset
        Positioned at the dataset's first byte. Where it stands afterwards is undefined; pixel data are not read.
    transfer_syntax
        UID of the transfer syntax that was negotiated, PS3.5 section 10.

    Raises
    ------
    UnreadableDatasetError
        The bytes are no dataset, or end inside the header.
    """
    return _header(*_elements(dataset, transfer_syntax, _BASE_AND_IDENTITY))


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
    found, form = _elements(dataset, transfer_syntax, None)
    return _header(found, form), document.document(found, form, charset.DEFAULT)


def read_text(dataset: BinaryIO, transfer_syntax: str) -> tuple[Header, str]:
    """Read what `read_whole` reads; the document as JSON, its members sorted, in far less time.

    Raises
    ------
    UnreadableDatasetError
        As for `read`.
    """
    found, form = _elements(dataset, transfer_syntax, None)
    return _header(found, form), document.text(found, form, charset.DEFAULT)


def _header(found: dict[int, Raw], form: Form) -> Header:
    encodings = document.encodings_of(found, form, charset.DEFAULT)
    little_endian = form.little_endian
    attributes: Attributes = {}
    for tag, keyword in _BASE_TAGS.items():
        if tag in found:
            vr, value = found[tag]
            if len(value) <= _LONGEST_KEPT:
                said = _kept_attribute(tag, vr, value, encodings, little_endian)
            else:
                said = _attribute(tag, vr, value, encodings, little_endian)
            if said is not None:
                # A list of their own for everyone, as the kept one is shared.
                attributes[keyword] = said if not isinstance(said, list) else said.copy()
    return Header(
        sop_class_uid=str(attributes.get("SOPClassUID", "")),
        sop_instance_uid=str(attributes.get("SOPInstanceUID", "")),
        study_instance_uid=str(attributes.get("StudyInstanceUID", "")),
        series_instance_uid=str(attributes.get("SeriesInstanceUID", "")),
        attributes=attributes,
    )


def _attribute(
    tag: int, vr: str, value: bytes, encodings: charset.Encodings, little_endian: bool
) -> AttributeValue | None:
    return element.attribute(tag, element.said(tag, vr, value, encodings, little_endian=little_endian))


#: Most values of a study are the same in all its instances.
_kept_attribute = lru_cache(maxsize=4096)(_attribute)


def _uid(found: dict[int, Raw], tag: int, form: Form) -> str:
    vr, value = found[tag]
    if vr == "UI" and b"\\" not in value:
        return value.decode("latin-1").strip(element.PADDING)
    encodings = document.encodings_of(found, form, charset.DEFAULT)
    return str(_attribute(tag, vr, value, encodings, form.little_endian) or "")


def _elements(dataset: BinaryIO, transfer_syntax: str, wanted: Container[int] | None) -> tuple[dict[int, Raw], Form]:
    found: dict[int, Raw] = {}
    deflated = transfer_syntax == DeflatedExplicitVRLittleEndian
    try:
        source: _Source = Inflated(dataset, _LONGEST_HEADER) if deflated else dataset
        data = source.read(_CHUNK)
        form = tokenizer.form_of(data, _said(transfer_syntax))
        data, rest = _gather(source, data, 0, found, form, wanted, _SERIES + 1)
        identified = {tag: found[tag] for tag in _UIDS if tag in found}
        if not rest.need:
            data, rest = _gather(source, data, rest.at, found, form, wanted, tokenizer.PIXELS)
    except (tokenizer.MalformedError, zlib.error) as error:
        raise _unreadable(error) from error
    if len(identified) == len(_UIDS):
        # What stands in its place counts, also when it comes again: `identity` and the answer went by it.
        found |= identified
    if rest.need and rest.tag >= 0:
        raise UnreadableDatasetError(
            f"the dataset ends inside the value of ({rest.tag >> 16:04X},{rest.tag & 0xFFFF:04X})"
        )
    if not found and rest.at == 0:
        raise UnreadableDatasetError("the dataset holds no element")
    return found, form


def _gather(
    source: _Source,
    data: bytes,
    at: int,
    found: dict[int, Raw],
    form: Form,
    wanted: Container[int] | None,
    stop: int,
) -> tuple[bytes, Rest]:
    """Take elements until the stop or the source's end, holding no more than the element at hand needs."""
    while True:
        rest = tokenizer.scan(data, at, found, form, wanted=wanted, stop=stop)
        if not rest.need:
            return data, rest
        need = rest.need - rest.at
        if need > _LONGEST_HEADER and not rest.open:
            # Too long to be held: passed over, as if nobody had asked for it.
            rest = Rest(rest.need, rest.need, rest.tag)
        if rest.at > len(data):
            if not _skipped(source, rest.at - len(data)):
                return data, rest
            data, need = b"", 1
        elif need > _LONGEST_HEADER:
            if rest.tag > _LAST_BASE:
                # Such as hours of waveforms in a sequence: all that events carry came before.
                return data, Rest(rest.at, 0, rest.tag)
            raise UnreadableDatasetError("a sequence of its header is longer than 64 MiB")
        else:
            data = data[rest.at :]
        at = 0
        more = source.read(min(max(need, 2 * len(data), _CHUNK), _LONGEST_HEADER) - len(data))
        if not more:
            return data, Rest(0, need, rest.tag if data else -1)
        data += more


def _skipped(source: _Source, length: int) -> bool:
    """Pass over a value; tells whether all of it was there."""
    if isinstance(source, io.IOBase) and source.seekable():
        source.seek(length - 1, io.SEEK_CUR)
        return len(source.read(1)) == 1
    while length and (passed := source.read(min(length, _CHUNK))):
        length -= len(passed)
    return length == 0


def _said(transfer_syntax: str) -> Form:
    return Form(
        implicit=transfer_syntax == ImplicitVRLittleEndian, little_endian=transfer_syntax != ExplicitVRBigEndian
    )


def _unreadable(error: Exception) -> UnreadableDatasetError:
    malformed = isinstance(error, tokenizer.MalformedError)
    why = str(error) if malformed else "it is not deflated, as its transfer syntax says it is"
    return UnreadableDatasetError(f"the dataset cannot be parsed: {why}")
