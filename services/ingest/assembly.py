"""A study as a whole, out of its instances: the same whatever the order, the batches and the repetitions."""

from collections.abc import Iterable, Sequence
from typing import Final

from contracts.fact import Attributes, AttributeValue
from contracts.instances import StoredInstance

#: Objects about images rather than images: they never give a study its primary modality while anything else does.
SECONDARY_MODALITIES: Final = frozenset(
    {"AU", "DOC", "FID", "HC", "KO", "OT", "PLAN", "PR", "REG", "RTPLAN", "RTRECORD", "RTSTRUCT", "RWV", "SEG", "SR"}
)
#: Attributes of patient and study (PS3.3 sections C.7.1 and C.7.2): where instances differ, the smallest stands.
STUDY_KEYWORDS: Final = (
    *("StudyInstanceUID", "StudyDescription", "StudyID", "AccessionNumber", "ReferringPhysicianName"),
    *("PatientName", "PatientID", "IssuerOfPatientID", "PatientBirthDate", "PatientSex", "PatientAge"),
    *("PatientIdentityRemoved", "InstitutionName", "TimezoneOffsetFromUTC", "RequestingPhysician"),
)
#: Attributes of series and equipment: they stand for the study only where all instances that have them agree.
SHARED_KEYWORDS: Final = (
    *("Manufacturer", "ManufacturerModelName", "StationName", "InstitutionalDepartmentName", "DeviceSerialNumber"),
    *("BodyPartExamined", "ProtocolName", "PerformingPhysicianName", "Laterality", "PatientSize", "PatientWeight"),
    *("RequestedProcedureID", "RequestedProcedureDescription", "PerformedProcedureStepID", "BurnedInAnnotation"),
)


def study_attributes(instances: Sequence[StoredInstance]) -> Attributes:
    """Aggregate the attributes of a study.

    Returns
    -------
    dict
        `ModalitiesInStudy` sorted, `Modality` the primary one, the earliest `StudyDate` with the earliest `StudyTime`
        of that date, the counts of series and instances, and the keywords above.
    """
    found: Attributes = {
        "NumberOfStudyRelatedSeries": len({each.series_instance_uid for each in instances}),
        "NumberOfStudyRelatedInstances": len({each.sop_instance_uid for each in instances}),
        "SOPClassesInStudy": sorted({each.sop_class_uid for each in instances}),
    }
    all_attributes = [each.attributes for each in instances]
    modalities = sorted({str(value) for value in _all(all_attributes, "Modality")})
    if modalities:
        found["ModalitiesInStudy"] = modalities
        found["Modality"] = primary_modality(modalities)
    # A date without time comes before the same date with one: "" is the smallest.
    moments = sorted(
        (str(each["StudyDate"]), str(each.get("StudyTime", ""))) for each in all_attributes if each.get("StudyDate")
    )
    if moments:
        found["StudyDate"] = moments[0][0]
        times = [time for date, time in moments if date == moments[0][0] and time]
        if times:
            found["StudyTime"] = times[0]
    for keyword in STUDY_KEYWORDS:
        values = _all(all_attributes, keyword)
        if values:
            found[keyword] = min(values, key=_order)
    for keyword in SHARED_KEYWORDS:
        distinct = {repr(value): value for value in _all(all_attributes, keyword)}
        if len(distinct) == 1:
            found[keyword] = next(iter(distinct.values()))
    return found


def primary_modality(modalities: Iterable[str]) -> str:
    """Choose the modality that stands for a study: the first in the alphabet that is not about other images."""
    ordered = sorted(modalities)
    return next((each for each in ordered if each not in SECONDARY_MODALITIES), ordered[0])


def _all(all_attributes: Iterable[Attributes], keyword: str) -> list[AttributeValue]:
    return [each[keyword] for each in all_attributes if keyword in each]


def _order(value: AttributeValue) -> tuple[str, str]:
    return type(value).__name__, str(value)
