"""The header of a dataset: everything before the pixel data, from bytes in any transfer syntax."""

import zlib
from collections.abc import Container
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, BinaryIO, Final

from contracts.fact import Attributes, AttributeValue
from libs.dicom import charset, dictionary, document, element, tokenizer
from libs.dicom.identity import (
    CHUNK,
    DEFLATED,
    IDENTITY_TAGS,
    LONGEST_HEADER,
    SERIES,
    UIDS,
    Identity,
    Source,
    UnreadableDatasetError,
    form_said,
    gather,
    identity,
    unreadable,
)
from libs.dicom.inflated import Inflated
from libs.dicom.tokenizer import Form, Raw

__all__ = [
    "BASE_KEYWORDS",
    "Header",
    "Identity",
    "UnreadableDatasetError",
    "attribute_of",
    "identity",
    "read",
    "read_text",
    "read_whole",
]

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
_OF_KEYWORD: Final = dictionary.tags_of(frozenset(BASE_KEYWORDS))
_BASE_TAGS: Final = {_OF_KEYWORD[keyword]: keyword for keyword in BASE_KEYWORDS}
_BASE_AND_IDENTITY: Final = frozenset({*_BASE_TAGS, *IDENTITY_TAGS})
_LAST_BASE: Final = max(_BASE_AND_IDENTITY)
#: Longer values are not kept for the next instance.
_LONGEST_KEPT: Final = 128


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


def attribute_of(found: dict[int, Raw], tag: int, form: Form) -> AttributeValue | None:
    """Give an element's value as an event carries it; None if there is none."""
    encodings = document.encodings_of(found, form, charset.DEFAULT)
    return _attribute(tag, *found[tag], encodings, form.little_endian)


def _attribute(
    tag: int, vr: str, value: bytes, encodings: charset.Encodings, little_endian: bool
) -> AttributeValue | None:
    return element.attribute(tag, element.said(tag, vr, value, encodings, little_endian=little_endian))


#: Most values of a study are the same in all its instances.
_kept_attribute = lru_cache(maxsize=4096)(_attribute)


def _elements(dataset: BinaryIO, transfer_syntax: str, wanted: Container[int] | None) -> tuple[dict[int, Raw], Form]:
    found: dict[int, Raw] = {}
    deflated = transfer_syntax == DEFLATED
    try:
        source: Source = Inflated(dataset, LONGEST_HEADER) if deflated else dataset
        data = source.read(CHUNK)
        form = tokenizer.form_of(data, form_said(transfer_syntax))
        data, rest = gather(source, data, 0, found, form, wanted, stop=SERIES + 1, needed=_LAST_BASE)
        identified = {tag: found[tag] for tag in UIDS if tag in found}
        if not rest.need:
            data, rest = gather(source, data, rest.at, found, form, wanted, stop=tokenizer.PIXELS, needed=_LAST_BASE)
    except (tokenizer.MalformedError, zlib.error) as error:
        raise unreadable(error) from error
    if len(identified) == len(UIDS):
        # What stands in its place counts, also when it comes again: `identity` and the answer went by it.
        found |= identified
    if rest.need and rest.tag >= 0:
        raise UnreadableDatasetError(
            f"the dataset ends inside the value of ({rest.tag >> 16:04X},{rest.tag & 0xFFFF:04X})"
        )
    if not found and rest.at == 0:
        raise UnreadableDatasetError("the dataset holds no element")
    return found, form
