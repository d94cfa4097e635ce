"""What PS3.4 section F.7.2 says of performed procedure steps, as a model: written from its tables, not from our code.

Where a request has several faults, the Standard does not say which one is answered: the model gives all of them.
"""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

#: Table F.7.2-1: attribute, type in N-CREATE, whether N-SET may name it, type in the final state where there is one: of
#: what has none, nothing is asked again at the end, as no N-SET could bring it (note 5). What stands in items of a
#: sequence is indented below it. Optional ones without items are left out.
_TABLE: Final = """
ScheduledStepAttributesSequence 1 no
    StudyInstanceUID 1 no
    ReferencedStudySequence 2 no
        ReferencedSOPClassUID 1 no
        ReferencedSOPInstanceUID 1 no
    AccessionNumber 2 no
    RequestedProcedureID 2 no
    RequestedProcedureCodeSequence 3 no
        CodeMeaning 1 no
    RequestedProcedureDescription 2 no
    ScheduledProcedureStepID 2 no
    ScheduledProcedureStepDescription 2 no
    ScheduledProtocolCodeSequence 2 no
        CodeMeaning 1 no
PatientName 2 no
PatientID 2 no
IssuerOfPatientID 3 no
PatientBirthDate 2 no
PatientSex 2 no
ReferencedPatientSequence 2 no
    ReferencedSOPClassUID 1 no
    ReferencedSOPInstanceUID 1 no
AdmissionID 3 no
PerformedProcedureStepID 1 no
PerformedStationAETitle 1 no
PerformedStationName 2 no
PerformedLocation 2 no
PerformedProcedureStepStartDate 1 no
PerformedProcedureStepStartTime 1 no
PerformedProcedureStepStatus 1 yes
PerformedProcedureStepDescription 2 yes
PerformedProcedureTypeDescription 2 yes
ProcedureCodeSequence 2 yes
ReasonForPerformedProcedureCodeSequence 3 yes
    CodeMeaning 1 yes
PerformedProcedureStepEndDate 2 yes 1
PerformedProcedureStepEndTime 2 yes 1
CommentsOnThePerformedProcedureStep 3 yes
PerformedProcedureStepDiscontinuationReasonCodeSequence 3 yes
    CodeMeaning 1 yes
Modality 1 no
StudyID 2 no
PerformedProtocolCodeSequence 2 yes
PerformedSeriesSequence 2 yes 1
    PerformingPhysicianName 2 yes 2
    ProtocolName 1 yes 1
    OperatorsName 2 yes 2
    SeriesInstanceUID 1 yes 1
    SeriesDescription 2 yes 2
    RetrieveAETitle 2 yes 2
    ReferencedImageSequence 2 yes 2
        ReferencedSOPClassUID 1 yes 1
        ReferencedSOPInstanceUID 1 yes 1
    ReferencedNonImageCompositeSOPInstanceSequence 2 yes 2
        ReferencedSOPClassUID 1 yes 1
        ReferencedSOPInstanceUID 1 yes 1
"""
#: What Kivuko refuses whatever `mpps.strict` says (docs/worklist-mpps.md): of what is type 1 the rest is a lapse.
_VITAL: Final = frozenset(
    {
        *("ScheduledStepAttributesSequence", "ScheduledStepAttributesSequence/StudyInstanceUID", "Modality"),
        *("PerformedProcedureStepID", "PerformedStationAETitle", "PerformedProcedureStepStartDate"),
        *("PerformedProcedureStepStartTime", "PerformedProcedureStepStatus", "PerformedProcedureStepEndDate"),
        *("PerformedProcedureStepEndTime", "PerformedSeriesSequence", "PerformedSeriesSequence/SeriesInstanceUID"),
    }
)
FINAL: Final = ("COMPLETED", "DISCONTINUED")
STATUS: Final = "PerformedProcedureStepStatus"
MISSING, EMPTY, INVALID, NO_SUCH = 0x0120, 0x0121, 0x0106, 0x0105


@dataclass
class Row:
    path: str
    create: int
    settable: bool
    final: int
    items: "list[Row]" = field(default_factory=list)

    @property
    def keyword(self) -> str:
        return self.path.rpartition("/")[2]


def _rows() -> list[Row]:
    top: list[Row] = []
    open_at: list[Row] = []
    for line in _TABLE.strip().splitlines():
        depth = (len(line) - len(line.lstrip())) // 4
        keyword, create, settable, *final = line.split()
        del open_at[depth:]
        path = "/".join((*(each.keyword for each in open_at), keyword))
        row = Row(path, int(create), settable == "yes", int(final[0]) if final else 3)
        (open_at[-1].items if open_at else top).append(row)
        open_at.append(row)
    return top


ROWS: Final = _rows()


@dataclass(frozen=True)
class Fault:
    """Something for which a request may be refused; `vital`: whatever the network is told."""

    status: int
    vital: bool


def _lacking(said: Mapping[str, Any], rows: list[Row], type_of: str) -> Iterator[Fault]:
    for row in rows:
        required = getattr(row, type_of)
        values = said.get(row.keyword)
        vital = row.path in _VITAL and required == 1
        if values is None:
            if required != 3:
                yield Fault(MISSING, vital)
        elif required == 1 and not any(values):
            yield Fault(EMPTY, vital)
        for item in values or ():
            if not isinstance(item, str):
                yield from _lacking(item, row.items, type_of)


def _wrong(said: Mapping[str, Any]) -> Iterator[Fault]:
    """Find values that are none of their VR (PS3.5 section 6.2), or none of the defined terms."""
    for keyword, values in said.items():
        if not any(values):
            continue
        if keyword.startswith("PerformedProcedureStep") and keyword.endswith("Date"):
            right = re.fullmatch(r"\d{4}(0[1-9]|1[0-2])(0[1-9]|[12]\d|3[01])", values[0])
        elif keyword.startswith("PerformedProcedureStep") and keyword.endswith("Time"):
            right = re.fullmatch(r"([01]\d|2[0-3])([0-5]\d([0-5]\d(\.\d{1,6})?)?)?", values[0])
        elif keyword == STATUS:
            right = re.fullmatch("IN PROGRESS|COMPLETED|DISCONTINUED", values[0])
        else:
            continue
        if right is None:
            yield Fault(INVALID, vital=True)


@dataclass
class Step:
    """One step, as the Standard knows it."""

    said: dict[str, Any] | None = None

    @property
    def status(self) -> str:
        return "" if self.said is None else str(self.said[STATUS][0])

    def create(self, said: Mapping[str, Any]) -> set[Fault]:
        """Give the faults of an N-CREATE, section F.7.2.1.3; the caller notes it if it is taken."""
        found = {*_lacking(said, ROWS, "create"), *_wrong(said)}
        if any(said.get(STATUS, ())) and said[STATUS][0] != "IN PROGRESS":
            found.add(Fault(INVALID, vital=True))
        return found

    def set(self, said: Mapping[str, Any]) -> tuple[set[Fault], dict[str, Any], bool]:
        """Give the faults of an N-SET to a step that is in progress, what it says then, and whether any was left out.

        Section F.7.2.2.3, and note 5 of the table: only what was created can be set.
        """
        assert self.said is not None
        table = {row.keyword: row for row in ROWS}
        found: set[Fault] = set(_wrong({key: value for key, value in said.items() if _may(table, key)}))
        after, left_out = dict(self.said), False
        for keyword, values in said.items():
            if not _may(table, keyword):
                if tuple(self.said.get(keyword, ())) != tuple(values):
                    found.add(Fault(NO_SUCH, vital=False))
                    left_out = True
                continue
            if keyword in table and keyword not in self.said:
                found.add(Fault(NO_SUCH, vital=False))
            after[keyword] = values
            for item in values if keyword in table else ():
                if not isinstance(item, str):
                    found |= {Fault(one.status, vital=False) for one in _lacking(item, table[keyword].items, "create")}
        if STATUS in said and not any(said[STATUS]):
            found.add(Fault(EMPTY, vital=True))
        elif after[STATUS][0] in FINAL:
            found |= set(_lacking(after, ROWS, "final"))
        return found, after, left_out


def _may(table: Mapping[str, Row], keyword: str) -> bool:
    return keyword not in table or table[keyword].settable


def becomes(performed: list[tuple[str, bool]]) -> str | None:
    """Say what a scheduled step becomes of those that were performed for it: status, and whether the entry was wrong.

    Of what is over and done, nothing takes the scheduled step back (section F.7.2.2.3); what was performed for the
    wrong entry was not performed for it.
    """
    right = {status for status, wrong in performed if not (wrong and status == "DISCONTINUED")}
    for status, state in (("COMPLETED", "completed"), ("IN PROGRESS", "in-progress"), ("DISCONTINUED", "discontinued")):
        if status in right:
            return state
    return None
