"""A performed procedure step (MPPS): what may be said of it, and when. PS3.4 section F.7.2, table F.7.2-1. Pure.

    IN PROGRESS --N-SET--> COMPLETED or DISCONTINUED, which nothing follows

What the Standard demands is of two kinds. Without what is *vital* a step can't be told from others, belongs to no
study, or has no time: it is refused. All else that is missing is a *lapse*: it harms nobody but the reader of the
step, modalities in use commit it daily, and a step that is refused for it is one that nobody knows of. A lapse is
taken, kept and shown; a network can be told to be strict, and refuses it then.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone, tzinfo
from typing import Final, Literal, TypeAlias

from services.worklist.attributes import Attributes

#: PS3.4 sections F.7.3 and F.8.3.
SOP_CLASS: Final = "1.2.840.10008.3.1.2.3.3"
RETRIEVE_SOP_CLASS: Final = "1.2.840.10008.3.1.2.3.4"

State = Literal["in-progress", "completed", "discontinued"]
#: Defined terms of Performed Procedure Step Status (0040,0252), PS3.3 section C.4.14.
TERMS: Final[dict[str, State]] = {
    "IN PROGRESS": "in-progress",
    "COMPLETED": "completed",
    "DISCONTINUED": "discontinued",
}

#: PS3.7 annex C.
SUCCESS: Final = 0x0000
OPTIONAL_NOT_SUPPORTED: Final = 0x0001
NO_SUCH_ATTRIBUTE: Final = 0x0105
INVALID_ATTRIBUTE_VALUE: Final = 0x0106
ATTRIBUTE_LIST_ERROR: Final = 0x0107
PROCESSING_FAILURE: Final = 0x0110
DUPLICATE_SOP_INSTANCE: Final = 0x0111
NO_SUCH_SOP_INSTANCE: Final = 0x0112
INVALID_OBJECT_INSTANCE: Final = 0x0117
CLASS_INSTANCE_CONFLICT: Final = 0x0119
MISSING_ATTRIBUTE: Final = 0x0120
MISSING_ATTRIBUTE_VALUE: Final = 0x0121
#: Error ID (0000,0903) and Error Comment (0000,0902) of PS3.4 table F.7.2-2.
NO_LONGER_UPDATED: Final = 0xA710
NO_LONGER_UPDATED_COMMENT: Final = "Performed Procedure Step Object may no longer be updated"
#: Reason of a discontinuation (DCM) after which the scheduled step has still to be done, PS3.16 CID 9300.
WRONG_ENTRY: Final = ("110514", "DCM")

_UID: Final = re.compile(r"(0|[1-9][0-9]*)(\.(0|[0-9]+))*")
_LONGEST_UID: Final = 64
_STATUS: Final = "PerformedProcedureStepStatus"
_SERIES: Final = "PerformedSeriesSequence"
_STEPS: Final = "ScheduledStepAttributesSequence"


@dataclass(frozen=True)
class Row:
    """A row of table F.7.2-1.

    Attributes
    ----------
    create
        Requirement type in N-CREATE: 1 (with a value), 2 (present), 3.
    settable
        Whether N-SET may name it.
    final
        Requirement type when the state becomes final; 3 where the table says nothing.
    vital
        Whether its want is refused in any case.
    items
        Rows of its items, if it is a sequence.
    """

    keyword: str
    create: int
    settable: bool = False
    final: int = 3
    vital: bool = False
    items: tuple["Row", ...] = ()


_REFERENCE: Final = (
    Row("ReferencedSOPClassUID", 1, final=1),
    Row("ReferencedSOPInstanceUID", 1, final=1),
)
_CODE: Final = (Row("CodeMeaning", 1),)
TABLE: Final = (
    Row("SpecificCharacterSet", 3, settable=True),
    Row(
        _STEPS,
        1,
        vital=True,
        items=(
            Row("StudyInstanceUID", 1, vital=True),
            Row("ReferencedStudySequence", 2, items=_REFERENCE),
            Row("AccessionNumber", 2),
            Row("IssuerOfAccessionNumberSequence", 3),
            Row("PlacerOrderNumberImagingServiceRequest", 3),
            Row("OrderPlacerIdentifierSequence", 3),
            Row("FillerOrderNumberImagingServiceRequest", 3),
            Row("OrderFillerIdentifierSequence", 3),
            Row("RequestedProcedureID", 2),
            Row("RequestedProcedureCodeSequence", 3, items=_CODE),
            Row("RequestedProcedureDescription", 2),
            Row("ScheduledProcedureStepID", 2),
            Row("ScheduledProcedureStepDescription", 2),
            Row("ScheduledProtocolCodeSequence", 2, items=_CODE),
        ),
    ),
    Row("PatientName", 2),
    Row("PatientID", 2),
    Row("IssuerOfPatientID", 3),
    Row("IssuerOfPatientIDQualifiersSequence", 3),
    Row("OtherPatientIDsSequence", 3),
    Row("PatientBirthDate", 2),
    Row("PatientSex", 2),
    Row("ReferencedPatientSequence", 2, items=_REFERENCE),
    Row("AdmissionID", 3),
    Row("IssuerOfAdmissionIDSequence", 3),
    Row("ServiceEpisodeID", 3),
    Row("IssuerOfServiceEpisodeIDSequence", 3),
    Row("ServiceEpisodeDescription", 3),
    Row("PerformedProcedureStepID", 1, vital=True),
    Row("PerformedStationAETitle", 1, vital=True),
    Row("PerformedStationName", 2),
    Row("PerformedLocation", 2),
    Row("PerformedProcedureStepStartDate", 1, vital=True),
    Row("PerformedProcedureStepStartTime", 1, vital=True),
    Row(_STATUS, 1, settable=True, vital=True),
    Row("PerformedProcedureStepDescription", 2, settable=True),
    Row("PerformedProcedureTypeDescription", 2, settable=True),
    Row("ProcedureCodeSequence", 2, settable=True),
    Row("ReasonForPerformedProcedureCodeSequence", 3, settable=True, items=_CODE),
    Row("PerformedProcedureStepEndDate", 2, settable=True, final=1, vital=True),
    Row("PerformedProcedureStepEndTime", 2, settable=True, final=1, vital=True),
    Row("CommentsOnThePerformedProcedureStep", 3, settable=True),
    Row("PerformedProcedureStepDiscontinuationReasonCodeSequence", 3, settable=True, items=_CODE),
    Row("Modality", 1, vital=True),
    Row("StudyID", 2),
    Row("PerformedProtocolCodeSequence", 2, settable=True),
    Row(
        _SERIES,
        2,
        settable=True,
        final=1,
        vital=True,
        items=(
            Row("PerformingPhysicianName", 2, final=2),
            Row("ProtocolName", 1, final=1),
            Row("OperatorsName", 2, final=2),
            Row("SeriesInstanceUID", 1, final=1, vital=True),
            Row("SeriesDescription", 2, final=2),
            Row("RetrieveAETitle", 2, final=2),
            Row("ReferencedImageSequence", 2, final=2, items=_REFERENCE),
            Row("ReferencedNonImageCompositeSOPInstanceSequence", 2, final=2, items=_REFERENCE),
        ),
    ),
)
_ROWS: Final = {row.keyword: row for row in TABLE}
#: What no request may say: it is the command's.
_OF_COMMAND: Final = frozenset({"SOPClassUID", "SOPInstanceUID"})


@dataclass(frozen=True)
class Lapse:
    """What a request says otherwise than the Standard wants.

    Attributes
    ----------
    keyword
        Attribute of the dataset, or the sequence that it stands in.
    where
        The same with the place inside it: `PerformedSeriesSequence[2].ProtocolName`.
    kind
        missing; empty; invalid; not-allowed: N-SET may not change it; not-created: N-CREATE has not named it.
    """

    keyword: str
    where: str
    kind: Literal["missing", "empty", "invalid", "not-allowed", "not-created"]

    def __str__(self) -> str:
        return f"{self.where} {_SAYS[self.kind]}"


_SAYS: Final = {
    "missing": "is missing",
    "empty": "has no value",
    "invalid": "has no valid value",
    "not-allowed": "can't be changed by N-SET and stays as it was",
    "not-created": "was not in the N-CREATE",
}
_STATUS_OF: Final = {
    "missing": MISSING_ATTRIBUTE,
    "empty": MISSING_ATTRIBUTE_VALUE,
    "invalid": INVALID_ATTRIBUTE_VALUE,
    "not-allowed": NO_SUCH_ATTRIBUTE,
    "not-created": NO_SUCH_ATTRIBUTE,
}


@dataclass(frozen=True)
class Refused:
    """A request that changes nothing.

    Attributes
    ----------
    status
        PS3.7 annex C.
    comment
        Error Comment (0000,0902), without personal data; longer than the 64 characters of the wire, for people.
    keywords
        Attributes that it is about.
    error_id
        Error ID (0000,0903), if there is one.
    repeated
        Whether the same was taken before: its sender probably saw no answer.
    """

    status: int
    comment: str
    keywords: tuple[str, ...] = ()
    error_id: int | None = None
    repeated: bool = False


@dataclass(frozen=True)
class Accepted:
    """A request that is taken.

    Attributes
    ----------
    attributes
        All that is said of the step now.
    state
        Its state now.
    lapses
        What it says otherwise than the Standard wants.
    status
        Success, or 0107 where something of it was left out.
    """

    attributes: Attributes
    state: State
    lapses: tuple[Lapse, ...] = ()
    status: int = SUCCESS

    @property
    def left_out(self) -> tuple[str, ...]:
        """Attributes that stay as they were."""
        return tuple(dict.fromkeys(lapse.keyword for lapse in self.lapses if lapse.kind == "not-allowed"))


Answer: TypeAlias = Accepted | Refused


def create(said: Attributes, known: Attributes | None = None, *, strict: bool = False) -> Answer:
    """Answer an N-CREATE, section F.7.2.1.

    Parameters
    ----------
    said
        Its attribute list.
    known
        What is there under the same SOP Instance UID; `refused_again` tells what it means.
    strict
        Whether each lapse is refused.
    """
    if known is not None:
        return Refused(DUPLICATE_SOP_INSTANCE, "a step with this SOP Instance UID was created before")
    found = [*_wanting(said, TABLE, "create"), *_invalid(said)]
    state = state_of(said)
    if text(said, _STATUS) and state != "in-progress":
        return Refused(INVALID_ATTRIBUTE_VALUE, "N-CREATE takes the status IN PROGRESS only", (_STATUS,))
    refused = _refused(found, strict=strict)
    if refused is not None:
        return refused
    return Accepted(_own(said), "in-progress", tuple(lapse for lapse, _ in found))


def change(step: Attributes, said: Attributes, *, strict: bool = False) -> Answer:
    """Answer an N-SET, section F.7.2.2: sequences are replaced as a whole.

    Parameters
    ----------
    step
        All that was said of the step.
    said
        The modification list.
    strict
        Whether each lapse is refused.
    """
    now = state_of(step)
    said = _own(said)
    if now != "in-progress":
        again = all(step.get(keyword) == value for keyword, value in said.items() if keyword != "SpecificCharacterSet")
        comment = NO_LONGER_UPDATED_COMMENT
        return Refused(PROCESSING_FAILURE, comment, error_id=NO_LONGER_UPDATED, repeated=again)
    foreign = [keyword for keyword in said if not _settable(keyword)]
    differing = [keyword for keyword in foreign if said[keyword] != step.get(keyword, ())]
    found: list[tuple[Lapse, bool]] = [(Lapse(keyword, keyword, "not-allowed"), False) for keyword in differing]
    taken = {keyword: value for keyword, value in said.items() if keyword not in foreign}
    found += [
        (Lapse(keyword, keyword, "not-created"), False)
        for keyword in taken
        if keyword not in step and keyword in _ROWS and keyword != "SpecificCharacterSet"
    ]
    merged = {**step, **taken}
    found += _invalid(taken)
    found += _wanting_inside(taken)
    if _STATUS in taken and not text(taken, _STATUS):
        found.append((Lapse(_STATUS, _STATUS, "empty"), True))
    state = state_of(merged)
    if state is not None and state != "in-progress":
        found += _wanting(merged, TABLE, "final")
    refused = _refused(found, strict=strict)
    if refused is not None or state is None:
        return refused or Refused(INVALID_ATTRIBUTE_VALUE, f"{_STATUS} has no valid value", (_STATUS,))
    status = ATTRIBUTE_LIST_ERROR if differing else SUCCESS
    return Accepted(merged, state, tuple(dict.fromkeys(lapse for lapse, _ in found)), status)


def retrieve(step: Attributes, wanted: Sequence[str], *, unknown: int = 0) -> tuple[Attributes, int]:
    """Answer an N-GET, section F.8.2: what is asked for, all if nothing is; and the status.

    Parameters
    ----------
    step
        All that was said of the step.
    wanted
        Keys of the Attribute Identifier List (0000,1005).
    unknown
        How many more are asked for that nothing has.
    """
    if not wanted and not unknown:
        return step, SUCCESS
    found = {keyword: step[keyword] for keyword in wanted if keyword in step}
    missing = unknown or any(keyword not in step and keyword not in _ROWS for keyword in wanted)
    if "SpecificCharacterSet" in step:
        found["SpecificCharacterSet"] = step["SpecificCharacterSet"]
    return found, OPTIONAL_NOT_SUPPORTED if missing else SUCCESS


def state_of(attributes: Attributes) -> State | None:
    """Read Performed Procedure Step Status (0040,0252); None if it is none of the defined terms."""
    return TERMS.get(text(attributes, _STATUS))


def text(attributes: Attributes, keyword: str) -> str:
    """Give the first value of an attribute of text; empty if there is none."""
    value = next(iter(attributes.get(keyword, ())), "")
    return value if isinstance(value, str) else ""


def items(attributes: Attributes, keyword: str) -> tuple[Attributes, ...]:
    """Give the items of a sequence."""
    return tuple(each for each in attributes.get(keyword, ()) if not isinstance(each, str))


def _own(said: Attributes) -> Attributes:
    return {keyword: value for keyword, value in said.items() if keyword not in _OF_COMMAND}


def _settable(keyword: str) -> bool:
    # What the table doesn't name is optional in both (type 3/3).
    row = _ROWS.get(keyword)
    return row is None or row.settable


def _wanting(
    attributes: Attributes, rows: Iterable[Row], column: Literal["create", "final"], path: str = "", top: str = ""
) -> Iterator[tuple[Lapse, bool]]:
    """Find what is missing or empty, and whether it is vital."""
    for row in rows:
        if column == "final" and not path and not row.settable:
            # Whoever ends the step could not mend it.
            continue
        keyword, where = top or row.keyword, f"{path}{row.keyword}"
        kind = row.create if column == "create" else row.final
        there = row.keyword in attributes
        empty = not any(attributes.get(row.keyword, ()))
        if kind == 1 and there and empty:
            yield Lapse(keyword, where, "empty"), row.vital
        elif kind <= 2 and not there:  # noqa: PLR2004 (type 2: present, with or without a value)
            yield Lapse(keyword, where, "missing"), row.vital and kind == 1
        if row.items:
            for number, item in enumerate(items(attributes, row.keyword), 1):
                yield from _wanting(item, row.items, column, f"{where}[{number}].", keyword)


def _wanting_inside(taken: Attributes) -> Iterator[tuple[Lapse, bool]]:
    """Find what is missing or empty in the items of sequences of an N-SET; it may still come until the end."""
    for keyword in taken:
        row = _ROWS.get(keyword)
        if row is None or not row.items:
            continue
        for number, item in enumerate(items(taken, keyword), 1):
            for lapse, _ in _wanting(item, row.items, "create", f"{keyword}[{number}].", keyword):
                yield lapse, False


def _refused(found: Sequence[tuple[Lapse, bool]], *, strict: bool) -> Refused | None:
    """Refuse by the gravest lapse: of those with one status, all are named."""
    grave = [lapse for lapse, vital in found if strict or vital]
    for kind, status in _STATUS_OF.items():
        named = [lapse for lapse in grave if lapse.kind == kind]
        if named:
            more = f" and {len(named) - 1} more" if len(named) > 1 else ""
            keywords = tuple(dict.fromkeys(lapse.keyword for lapse in named))
            return Refused(status, f"{named[0]}{more}", keywords)
    return None


def _invalid(said: Attributes) -> Iterator[tuple[Lapse, bool]]:
    """Find values without which the step can't be followed, and that can't be read."""
    for keyword, valid in _VALID.items():
        if text(said, keyword) and not valid(text(said, keyword)):
            yield Lapse(keyword, keyword, "invalid"), True
    for sequence, checks in _VALID_INSIDE.items():
        for number, item in enumerate(items(said, sequence), 1):
            for keyword, valid in checks.items():
                if text(item, keyword) and not valid(text(item, keyword)):
                    yield Lapse(sequence, f"{sequence}[{number}].{keyword}", "invalid"), True


def is_uid(value: str) -> bool:
    """Tell whether it is a UID, PS3.5 section 9.1; leading zeros occur in the field and pass."""
    return len(value) <= _LONGEST_UID and _UID.fullmatch(value) is not None


def day_of(value: str) -> date | None:
    """Read a DA, also as `YYYY.MM.DD` of ACR-NEMA; None if it is none."""
    digits = value.replace(".", "")
    try:
        return datetime.strptime(digits, "%Y%m%d").date() if len(digits) == 8 else None  # noqa: DTZ007, PLR2004 (a DA)
    except ValueError:
        return None


def time_of(value: str) -> time | None:
    """Read a TM, PS3.5 section 6.2: `HH[MM[SS[.F]]]`, also with colons of ACR-NEMA; None if it is none."""
    match = re.fullmatch(r"(\d\d):?(\d\d)?:?(\d\d)?(?:\.(\d{1,6}))?", value)
    if match is None or (match[4] and not match[3]):
        return None
    hour, minute, second = (int(part or 0) for part in match.group(1, 2, 3))
    try:
        # A leap second is the one before it: Python has none.
        return time(hour, minute, min(second, 59) if second == 60 else second, int((match[4] or "0").ljust(6, "0")))  # noqa: PLR2004
    except ValueError:
        return None


def _at_most(length: int) -> Callable[[str], bool]:
    return lambda value: len(value) <= length


#: What has to be valid, where it stands there.
_VALID: Final[dict[str, Callable[[str], bool]]] = {
    _STATUS: TERMS.__contains__,
    "PerformedStationAETitle": _at_most(16),
    "Modality": _at_most(16),
    "PerformedProcedureStepID": _at_most(64),
    "PerformedProcedureStepStartDate": lambda value: day_of(value) is not None,
    "PerformedProcedureStepStartTime": lambda value: time_of(value) is not None,
    "PerformedProcedureStepEndDate": lambda value: day_of(value) is not None,
    "PerformedProcedureStepEndTime": lambda value: time_of(value) is not None,
}
#: The same of items of sequences.
_VALID_INSIDE: Final[dict[str, dict[str, Callable[[str], bool]]]] = {
    _STEPS: {
        "StudyInstanceUID": is_uid,
        "AccessionNumber": _at_most(64),
        "ScheduledProcedureStepID": _at_most(64),
        "RequestedProcedureID": _at_most(64),
    },
    _SERIES: {"SeriesInstanceUID": is_uid},
}


def moment(attributes: Attributes, which: Literal["Start", "End"], zone: tzinfo) -> datetime | None:
    """Give when the step started or ended, in UTC; None if it does not say.

    Parameters
    ----------
    zone
        Time zone of the station, where the dataset says none in Timezone Offset From UTC (0008,0201).
    """
    day = day_of(text(attributes, f"PerformedProcedureStep{which}Date"))
    hour = time_of(text(attributes, f"PerformedProcedureStep{which}Time"))
    if day is None or hour is None:
        return None
    return datetime.combine(day, hour, _offset(text(attributes, "TimezoneOffsetFromUTC")) or zone).astimezone(UTC)


def _offset(value: str) -> tzinfo | None:
    match = re.fullmatch(r"([+-])(\d\d)(\d\d)", value)
    if match is None:
        return None
    minutes = int(match[2]) * 60 + int(match[3])
    if minutes > 14 * 60:
        return None
    return timezone(timedelta(minutes=-minutes if match[1] == "-" else minutes))


@dataclass(frozen=True)
class Series:
    """A series that a step says it made.

    Attributes
    ----------
    instances
        How many instances of it are named, images and others, each once.
    """

    series_instance_uid: str
    instances: int


def series(attributes: Attributes) -> tuple[Series, ...]:
    """Read the Performed Series Sequence, each series once."""
    named: dict[str, set[str]] = {}
    for item in items(attributes, _SERIES):
        found = named.setdefault(text(item, "SeriesInstanceUID"), set())
        for keyword in ("ReferencedImageSequence", "ReferencedNonImageCompositeSOPInstanceSequence"):
            found.update(uid for each in items(item, keyword) if (uid := text(each, "ReferencedSOPInstanceUID")))
    return tuple(Series(uid, len(found)) for uid, found in named.items())


def studies(attributes: Attributes) -> tuple[str, ...]:
    """Give the Study Instance UIDs that the step names, each once, in their order."""
    named = (text(item, "StudyInstanceUID") for item in items(attributes, _STEPS))
    return tuple(dict.fromkeys(uid for uid in named if uid))


def wrong_entry(attributes: Attributes) -> bool:
    """Tell whether it was discontinued because the wrong worklist entry was selected: the step is to be done still."""
    reasons = items(attributes, "PerformedProcedureStepDiscontinuationReasonCodeSequence")
    return state_of(attributes) == "discontinued" and any(
        (text(reason, "CodeValue"), text(reason, "CodingSchemeDesignator")) == WRONG_ENTRY for reason in reasons
    )


def effect(performed: Iterable[tuple[State, bool]]) -> State | None:
    """Say what becomes of a scheduled step, by all that was performed for it: in any order the same.

    Parameters
    ----------
    performed
        State of each, and whether the wrong entry had been selected for it.

    Returns
    -------
    State or None
        Completed once any is, whatever comes late; in progress while any is; None: it is to be done.
    """
    counted = {state for state, wrong in performed if not wrong}
    order: tuple[State, ...] = ("completed", "in-progress", "discontinued")
    return next((state for state in order if state in counted), None)
