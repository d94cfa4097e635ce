"""A study as a whole, out of its instances: the same whatever the order, the batches and the repetitions."""

from collections.abc import Iterable
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
_STUDY: Final = frozenset(STUDY_KEYWORDS)
_SHARED: Final = frozenset(SHARED_KEYWORDS)


class Aggregate:
    """The attributes of a study, gathered from its instances as they come by, in any order.

    It holds what is left of them, not the instances: a study may have more than the memory.
    """

    def __init__(self) -> None:
        self._series: set[str] = set()
        self._instances: set[str] = set()
        self._classes: set[str] = set()
        self._modalities: set[str] = set()
        #: Earliest date, and its earliest time.
        self._date: str | None = None
        self._time: str | None = None
        self._smallest: Attributes = {}
        #: By keyword the one value there is, None once there are several.
        self._shared: dict[str, AttributeValue | None] = {}

    def add(self, instance: StoredInstance) -> None:
        """Take an instance with all its base attributes; again is the same as once."""
        self._series.add(instance.series_instance_uid)
        self._instances.add(instance.sop_instance_uid)
        self._classes.add(instance.sop_class_uid)
        attributes = instance.attributes
        if "Modality" in attributes:
            self._modalities.add(str(attributes["Modality"]))
        if attributes.get("StudyDate"):
            self._at(str(attributes["StudyDate"]), str(attributes.get("StudyTime", "")))
        for keyword in attributes.keys() & _STUDY:
            value = attributes[keyword]
            if keyword not in self._smallest or _order(value) < _order(self._smallest[keyword]):
                self._smallest[keyword] = value
        for keyword in attributes.keys() & _SHARED:
            value = attributes[keyword]
            if self._shared.setdefault(keyword, value) != value:
                self._shared[keyword] = None

    def _at(self, date: str, time: str) -> None:
        if self._date is None or date < self._date:
            self._date, self._time = date, time
        elif date == self._date and time:
            self._time = min(self._time, time) if self._time else time

    @property
    def series_count(self) -> int:
        """Number of series."""
        return len(self._series)

    def attributes(self) -> Attributes:
        """Give the attributes of the study.

        Returns
        -------
        dict
            `ModalitiesInStudy` sorted, `Modality` the primary one, the earliest `StudyDate` with the earliest
            `StudyTime` of that date, the counts of series and instances, and the keywords above.
        """
        found: Attributes = {
            "NumberOfStudyRelatedSeries": len(self._series),
            "NumberOfStudyRelatedInstances": len(self._instances),
            "SOPClassesInStudy": sorted(self._classes),
        }
        if self._modalities:
            found["ModalitiesInStudy"] = sorted(self._modalities)
            found["Modality"] = primary_modality(self._modalities)
        if self._date:
            found["StudyDate"] = self._date
        if self._time:
            found["StudyTime"] = self._time
        found |= {keyword: self._smallest[keyword] for keyword in STUDY_KEYWORDS if keyword in self._smallest}
        shared = ((keyword, self._shared.get(keyword)) for keyword in SHARED_KEYWORDS)
        return found | {keyword: value for keyword, value in shared if value is not None}


def study_attributes(instances: Iterable[StoredInstance]) -> Attributes:
    """Aggregate the attributes of a study that is at hand as a whole."""
    aggregate = Aggregate()
    for each in instances:
        aggregate.add(each)
    return aggregate.attributes()


def primary_modality(modalities: Iterable[str]) -> str:
    """Choose the modality that stands for a study: the first in the alphabet that is not about other images."""
    ordered = sorted(modalities)
    return next((each for each in ordered if each not in SECONDARY_MODALITIES), ordered[0])


def _order(value: AttributeValue) -> tuple[str, str]:
    return type(value).__name__, str(value)
