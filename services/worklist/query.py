"""One worklist query: which items match it, and why others do not. PS3.4 sections K.2.2, K.4.1.3.1, K.6.1.2. Pure."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Final

from services.worklist import matching
from services.worklist.attributes import Attributes
from services.worklist.identifier import Key
from services.worklist.matching import Names, Span, Test

STEPS: Final = "ScheduledProcedureStepSequence"
_DATE: Final = "ScheduledProcedureStepStartDate"
_TIME: Final = "ScheduledProcedureStepStartTime"
#: Never matched, whatever value they have: PS3.4 section K.2.2.2 and table K.6-1.
_NEVER: Final = frozenset({"TimezoneOffsetFromUTC", "ProtocolContextSequence", "PertinentDocumentsSequence"})
#: Keys that items are matched by, PS3.4 table K.6-1, and of `All other Attributes` those that orders bring. By other
#: keys nothing is matched (section K.2.2.1.1.2): they are returned, and the status says so.
_OF_ITEM: Final = frozenset(
    """
    ScheduledProcedureStepSequence ScheduledSpecimenSequence BarcodeValue
    RequestedProcedureID RequestedProcedureDescription RequestedProcedureCodeSequence StudyInstanceUID StudyDate
    StudyTime ReferencedStudySequence RequestedProcedurePriority PatientTransportArrangements
    ReasonForTheRequestedProcedure RequestedProcedureComments RequestedProcedureLocation
    NamesOfIntendedRecipientsOfResults ReasonForRequestedProcedureCodeSequence
    AccessionNumber IssuerOfAccessionNumberSequence RequestingPhysician ReferringPhysicianName RequestingService
    PlacerOrderNumberImagingServiceRequest FillerOrderNumberImagingServiceRequest OrderPlacerIdentifierSequence
    OrderFillerIdentifierSequence ImagingServiceRequestComments
    AdmissionID IssuerOfAdmissionIDSequence CurrentPatientLocation ReferencedPatientSequence ServiceEpisodeID
    PatientName PatientID IssuerOfPatientID IssuerOfPatientIDQualifiersSequence OtherPatientIDsSequence OtherPatientIDs
    OtherPatientNames PatientMotherBirthName TypeOfPatientID
    PatientBirthDate PatientBirthTime PatientSex PatientPrimaryLanguageCodeSequence PatientWeight PatientSize
    ConfidentialityConstraintOnPatientDataDescription PatientAddress PatientTelephoneNumbers EthnicGroup
    PatientComments PatientAge
    PatientState PregnancyStatus MedicalAlerts Allergies SpecialNeeds SmokingStatus AdditionalPatientHistory
    """.split()  # noqa: SIM905 - as a list each word would take a line
)
_OF_STEP: Final = frozenset(
    """
    ScheduledStationAETitle ScheduledProcedureStepStartDate ScheduledProcedureStepStartTime
    ScheduledProcedureStepEndDate ScheduledProcedureStepEndTime Modality ScheduledPerformingPhysicianName
    ScheduledProcedureStepDescription ScheduledStationName ScheduledProcedureStepLocation
    ReferencedDefinedProtocolSequence ReferencedPerformedProtocolSequence ScheduledProtocolCodeSequence PreMedication
    ScheduledProcedureStepID RequestedContrastAgent ScheduledProcedureStepStatus CommentsOnTheScheduledProcedureStep
    ScheduledPerformingPhysicianIdentificationSequence
    """.split()  # noqa: SIM905 - the same
)


@dataclass(frozen=True)
class Mismatch:
    """A key that an item does not match.

    Attributes
    ----------
    key
        Keyword, within sequences with a dot: `ScheduledProcedureStepSequence.Modality`.
    wanted
        As the modality asks for it.
    had
        What the item has; nothing if it has no value, which matches no key.
    """

    key: str
    wanted: str
    had: tuple[str, ...]


class Query:
    """The keys of one request, made ready.

    Parameters
    ----------
    keys
        Of the identifier.
    names
        How person names are matched.
    """

    def __init__(self, keys: Sequence[Key], names: Names = "exact") -> None:
        self.keys = tuple(keys)
        self.level = Level("", keys, names)

    def matches(self, item: Attributes) -> bool:
        """Tell whether an item matches all keys."""
        return self.level.matches(item)

    def mismatches(self, item: Attributes) -> list[Mismatch]:
        """List the keys that an item does not match; of a sequence those of the item within that comes nearest."""
        return list(self.level.mismatches(item))

    @cached_property
    def ignored(self) -> tuple[str, ...]:
        """Keys with a value that nothing is matched by."""
        return tuple(self.level.ignored())

    @cached_property
    def unknown(self) -> bool:
        """Whether a key is private, or not in our dictionary: it is returned empty."""
        return any(key.keyword.startswith("(") for key in self.keys)

    @cached_property
    def asked(self) -> frozenset[str]:
        """Keywords that items are matched by, within sequences with a dot."""
        return frozenset(self.level.asked())

    @cached_property
    def shape(self) -> tuple[object, ...]:
        """What is asked for, whatever values it must have."""
        return _shape(self.keys)

    @cached_property
    def by_item(self) -> bool:
        """Whether what is returned depends on the values: only the matching items of a sequence are."""
        return any(key.items is not None and key.keyword != STEPS and _asks(key) for key in self.keys)

    def exact(self, keyword: str) -> frozenset[str] | None:
        """Give the values one of which an item must have; none if the key leaves more open.

        Parameters
        ----------
        keyword
            Of an attribute of the item itself, or of its scheduled step.
        """
        levels = (("", self.keys), (f"{STEPS}.", self._steps))
        for key in (key for path, keys in levels if _is_matched(path, keyword) for key in keys):
            if key.keyword != keyword or key.vr in ("PN", *matching.TIMES):
                continue
            if matching.is_universal(key.vr, key.values):
                return None
            if key.vr in matching.WILD and any(map(matching.is_wild, key.values)):
                return None
            return frozenset(key.values)
        return None

    @cached_property
    def days(self) -> Span:
        """Days on which an item must start, YYYYMMDD; open on both sides if any may be."""
        for key in self._steps:
            if key.keyword == _DATE and not matching.is_universal("DA", key.values) and len(key.values) == 1:
                wanted = key.values[0]
                return Span("", "") if matching.is_wild(wanted) else matching.span("DA", wanted)
        return Span("", "")

    @cached_property
    def _steps(self) -> tuple[Key, ...]:
        for key in self.keys:
            if key.keyword == STEPS and key.items and len(key.items) == 1:
                return key.items[0]
        return ()


def said(keys: Sequence[Key]) -> dict[str, object]:
    """Give keys as JSON has them: keyword to text, or to the keys of a sequence."""
    return {
        key.keyword: [said(item) for item in key.items] if key.items is not None else "\\".join(key.values)
        for key in keys
    }


def _shape(keys: Sequence[Key]) -> tuple[object, ...]:
    return tuple(
        (key.tag, key.vr) if key.items is None else (key.tag, *(_shape(item) for item in key.items)) for key in keys
    )


def _asks(key: Key) -> bool:
    if key.items is None:
        return not matching.is_universal(key.vr, key.values)
    return any(_asks(each) for item in key.items for each in item)


@dataclass(frozen=True)
class _Condition:
    keyword: str
    wanted: str
    test: Test


class Level:
    """The keys of one dataset: of the identifier, or of an item in one of its sequences.

    Parameters
    ----------
    path
        Where it stands, with a dot at its end; empty for the identifier.
    """

    def __init__(self, path: str, keys: Sequence[Key], names: Names) -> None:
        self._path = path
        self._ignored = [key for key in keys if _asks(key) and not _is_matched(path, key.keyword)]
        asking = [key for key in keys if _asks(key) and _is_matched(path, key.keyword)]
        self._conditions: list[_Condition] = []
        self._moment = _moment(asking)
        for key in asking:
            if key.items is None and not (self._moment and key.keyword in (_DATE, _TIME)):
                test = matching.matcher(key.vr, key.values, names)
                self._conditions.append(_Condition(key.keyword, "\\".join(key.values), test))
        # One item by the Standard; of several each may be meant.
        self._within = {
            key.keyword: tuple(Level(f"{path}{key.keyword}.", item, names) for item in key.items)
            for key in asking
            if key.items is not None
        }

    def within(self, keyword: str) -> "tuple[Level, ...]":
        """Give the keys within a sequence, one of which its items have to match; none: all of them do."""
        return self._within.get(keyword, ())

    def matches(self, item: Attributes) -> bool:
        """Tell whether an item matches all keys."""
        for condition in self._conditions:
            if not condition.test(_texts(item, condition.keyword)):
                return False
        if self._moment is not None and not self._moment[1].holds(_start(item)):
            return False
        return all(
            any(level.matches(each) for each in _items(item, keyword) for level in levels)
            for keyword, levels in self._within.items()
        )

    def mismatches(self, item: Attributes) -> Iterator[Mismatch]:
        """List the keys that it does not match."""
        for condition in self._conditions:
            had = _texts(item, condition.keyword)
            if not condition.test(had):
                yield Mismatch(self._path + condition.keyword, condition.wanted, had)
        if self._moment is not None and not self._moment[1].holds(_start(item)):
            had = (*_texts(item, _DATE), *_texts(item, _TIME))
            yield Mismatch(f"{self._path}{_DATE} and {_TIME}", self._moment[0], had)
        for keyword, levels in self._within.items():
            yield from _nearest(levels, _items(item, keyword))

    def asked(self) -> Iterator[str]:
        """List the keys that items are matched by."""
        yield from (self._path + condition.keyword for condition in self._conditions)
        if self._moment is not None:
            yield from (self._path + _DATE, self._path + _TIME)
        for levels in self._within.values():
            for level in levels:
                yield from level.asked()

    def ignored(self) -> Iterator[str]:
        """List the keys with a value by which nothing is matched."""
        yield from (self._path + key.keyword for key in self._ignored)
        for levels in self._within.values():
            for level in levels:
                yield from level.ignored()


def _nearest(levels: Sequence[Level], items: Sequence[Attributes]) -> list[Mismatch]:
    found = [list(level.mismatches(each)) for each in items or ({},) for level in levels]
    return min(found, key=len, default=[])


def _is_matched(path: str, keyword: str) -> bool:
    if keyword in _NEVER or keyword.startswith("("):
        return False
    if not path:
        return keyword in _OF_ITEM
    return path != f"{STEPS}." or keyword in _OF_STEP


def _moment(keys: Sequence[Key]) -> tuple[str, Span] | None:
    """Give date and time of the start as one span, if both are ranges."""
    by_keyword = {key.keyword: key.values for key in keys}
    dates, times = by_keyword.get(_DATE, ()), by_keyword.get(_TIME, ())
    if not matching.is_range(dates) or not matching.is_range(times):
        return None
    return f"{dates[0]} {times[0]}", matching.combined(dates[0], times[0])


def _start(item: Attributes) -> str:
    """Give the moment of a start as digits; what has no date or no time lies in no span."""
    dates, times = _texts(item, _DATE), _texts(item, _TIME)
    if not dates or not times or not dates[0] or not times[0]:
        return ""
    return matching.digits("DA", dates[0]) + matching.digits("TM", times[0])


def _texts(item: Attributes, keyword: str) -> tuple[str, ...]:
    return tuple(value for value in item.get(keyword, ()) if isinstance(value, str))


def _items(item: Attributes, keyword: str) -> tuple[Attributes, ...]:
    return tuple(value for value in item.get(keyword, ()) if not isinstance(value, str))
