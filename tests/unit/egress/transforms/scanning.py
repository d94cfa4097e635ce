"""Looks for what identifies somebody in the bytes of a dataset, without the code that takes it out."""

import re
from collections.abc import Iterator

from pydicom.dataset import Dataset


def _listed(keywords: str) -> frozenset[str]:
    return frozenset(keywords.split())


#: What identifies a patient, a visit, an institution or a person who was there, by keyword.
IDENTIFIERS = _listed(
    """
    AccessionNumber AdmissionID DeviceSerialNumber EthnicGroup FillerOrderNumberImagingServiceRequest
    InstitutionAddress InstitutionName InstitutionalDepartmentName IssuerOfPatientID
    NameOfPhysiciansReadingStudy OperatorsName OtherPatientIDs OtherPatientNames PatientAddress PatientBirthDate
    PatientBirthName PatientComments PatientID PatientMotherBirthName PatientName PatientTelephoneNumbers
    PerformedProcedureStepID PerformingPhysicianName PhysiciansOfRecord PlacerOrderNumberImagingServiceRequest
    ReferringPhysicianAddress ReferringPhysicianName ReferringPhysicianTelephoneNumbers RequestedProcedureID
    RequestingPhysician ResponsiblePerson ScheduledProcedureStepID StationName StudyDate StudyID
    VerifyingObserverName PersonName SeriesDate AcquisitionDate ContentDate
    """
)
#: A shorter one is found in anything.
SHORTEST = 5


def every_element(dataset: Dataset) -> Iterator[tuple[int, str, str, object]]:
    """Give tag, VR, keyword and value of each element, at any depth, private ones too."""
    for element in dataset:
        if element.VR == "SQ":
            for item in element.value or ():
                yield from every_element(item)
        else:
            yield int(element.tag), str(element.VR), str(element.keyword), element.value


def identifiers(dataset: Dataset, *, dates: bool = True) -> set[str]:
    """Collect what identifies somebody: values as they stand there, words of names, and UIDs of instances."""
    found: set[str] = set()
    for tag, vr, keyword, value in every_element(dataset):
        values = [str(each) for each in (value if isinstance(value, list | tuple) else [value]) if each is not None]
        if not isinstance(value, str | bytes) and hasattr(value, "__iter__") and vr != "PN":
            values = [str(each) for each in value]
        if vr == "PN":
            found |= {word for each in values for word in re.findall(r"[^\W\d_]{5,}", each)}
        elif vr == "UI":
            is_class = "ClassUID" in keyword or keyword.endswith(("SyntaxUID", "CodingSchemeUID")) or not keyword
            # Those that the Standard has given out begin like this.
            found |= {each for each in values if not is_class and not each.startswith("1.2.840.10008.")}
        elif keyword in IDENTIFIERS and not tag & 0x10000 and (dates or vr not in ("DA", "DT", "TM")):
            found |= {each.strip() for each in values}
    return {each for each in found if len(each) >= SHORTEST and not re.fullmatch(r"[0.]+", each)}


def left_in(content: bytes, wanted: set[str]) -> list[str]:
    """Name those that stand in bytes, in any of the encodings that a dataset may have."""
    text = content.decode("latin-1").lower()
    both = [text, content.decode("utf-8", "ignore").lower()]
    return sorted(each for each in wanted if any(_stands(each.lower(), there) for there in both))


def _stands(word: str, text: str) -> bool:
    # As a word: a UID is no part of a longer one, nor a name of another word.
    return re.search(rf"(?<![\w.]){re.escape(word)}(?![\w.])", text) is not None
