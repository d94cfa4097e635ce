"""The state machine of performed procedure steps, and its rules for attributes: PS3.4 section F.7.2."""

from datetime import UTC, datetime
from itertools import permutations
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from services.worklist import step
from services.worklist.attributes import Attributes
from services.worklist.link import references
from services.worklist.step import Accepted, Refused, State
from tests.unit.worklist import mpps_model
from tests.unit.worklist.performed import created, ended, made, reason, scheduled

pytestmark = pytest.mark.unit
STATUS = "PerformedProcedureStepStatus"


def without(said: Attributes, *keywords: str) -> Attributes:
    return {keyword: values for keyword, values in said.items() if keyword not in keywords}


def taken(answer: Accepted | Refused) -> Accepted:
    assert isinstance(answer, Accepted), answer
    return answer


def refused(answer: Accepted | Refused) -> Refused:
    assert isinstance(answer, Refused), answer
    return answer


def begun(**more: Any) -> Attributes:
    return taken(step.create(created(**more))).attributes


@pytest.mark.parametrize("strict", [False, True])
def test_what_the_standard_wants_has_no_lapse(strict: bool) -> None:
    first = taken(step.create(created(), strict=strict))
    assert (first.state, first.lapses, first.status) == ("in-progress", (), step.SUCCESS)
    for status, state in (("COMPLETED", "completed"), ("DISCONTINUED", "discontinued")):
        last = taken(step.change(first.attributes, ended(status), strict=strict))
        assert (last.state, last.lapses, last.status) == (state, (), step.SUCCESS)


@pytest.mark.parametrize("status", ["COMPLETED", "DISCONTINUED", "in progress", "SCHEDULED"])
def test_only_what_is_in_progress_is_created(status: str) -> None:
    answer = refused(step.create({**created(), STATUS: (status,)}))
    assert (answer.status, answer.keywords) == (0x0106, (STATUS,))


def test_what_is_there_is_not_created_again() -> None:
    assert refused(step.create(created(), created())).status == 0x0111


#: Type 1 of the table, without which a step can't be followed.
VITAL = [
    *("PerformedProcedureStepID", "PerformedStationAETitle", "PerformedProcedureStepStartDate", "Modality", STATUS),
    *("PerformedProcedureStepStartTime", "ScheduledStepAttributesSequence"),
]


@pytest.mark.parametrize("keyword", VITAL)
def test_what_is_vital_is_there_and_has_a_value(keyword: str) -> None:
    missing = refused(step.create(without(created(), keyword)))
    assert (missing.status, missing.keywords) == (0x0120, (keyword,))
    empty = refused(step.create({**created(), keyword: ()}))
    assert (empty.status, empty.keywords) == (0x0121, (keyword,))


@pytest.mark.parametrize(
    ("uid", "valid"),
    [
        ("1.2", True), ("0.0", True), ("2.25." + "1" * 59, True), ("2.25." + "1" * 60, False), ("1.02", True),
        ("", False), ("1.", False), (".1", False), ("1..2", False), ("01.2", False), ("1.2 ", False), ("1.x", False),
    ],
)  # fmt: skip
def test_what_a_uid_is(uid: str, valid: bool) -> None:
    assert step.is_uid(uid) is valid


def test_each_scheduled_step_names_its_study() -> None:
    nameless = without(scheduled(), "StudyInstanceUID")
    assert refused(step.create(created(scheduled(), nameless))).status == 0x0120
    assert refused(step.create(created(scheduled(study="")))).status == 0x0121
    assert refused(step.create(created(scheduled(study="1.2.x")))).status == 0x0106


#: Type 2: it has to be there, with or without a value.
TYPE_2 = sorted(row.keyword for row in step.TABLE if row.create == 2)


@pytest.mark.parametrize("keyword", TYPE_2)
def test_what_else_is_missing_is_noted_and_refused_where_the_network_is_strict(keyword: str) -> None:
    said = without(created(), keyword)
    assert [str(lapse) for lapse in taken(step.create(said)).lapses] == [f"{keyword} is missing"]
    assert refused(step.create(said, strict=True)).status == 0x0120


@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PerformedProcedureStepStartDate", "20261320"),
        ("PerformedProcedureStepStartTime", "2500"),
        ("PerformedStationAETitle", "SEVENTEEN LETTERS"),
        ("Modality", "SEVENTEEN LETTERS"),
    ],
)
def test_what_can_not_be_read_is_refused(keyword: str, value: str) -> None:
    answer = refused(step.create({**created(), keyword: (value,)}))
    assert (answer.status, answer.keywords) == (0x0106, (keyword,))


@pytest.mark.parametrize(
    ("keyword", "longest"), [("PerformedProcedureStepID", 64), ("PerformedStationAETitle", 16), ("Modality", 16)]
)
def test_names_are_as_long_as_the_tables_take_them(keyword: str, longest: int) -> None:
    assert taken(step.create({**created(), keyword: ("x" * longest,)})).lapses == ()
    assert refused(step.create({**created(), keyword: ("x" * (longest + 1),)})).status == 0x0106


@pytest.mark.parametrize("keyword", ["AccessionNumber", "ScheduledProcedureStepID", "RequestedProcedureID"])
def test_names_of_scheduled_steps_are_as_long_as_the_tables_take_them(keyword: str) -> None:
    assert taken(step.create(created({**scheduled(), keyword: ("x" * 64,)}))).lapses == ()
    assert refused(step.create(created({**scheduled(), keyword: ("x" * 65,)}))).status == 0x0106


@pytest.mark.parametrize("status", ["COMPLETED", "DISCONTINUED"])
def test_a_final_state_has_an_end_and_a_series(status: str) -> None:
    for keyword in ("PerformedProcedureStepEndDate", "PerformedProcedureStepEndTime", "PerformedSeriesSequence"):
        answer = refused(step.change(begun(), without(ended(status), keyword)))
        assert (answer.status, answer.keywords) == (0x0121, (keyword,))
        never = without(begun(), keyword)
        assert refused(step.change(never, without(ended(status), keyword))).status == 0x0120
    nameless = without(made("1.2"), "SeriesInstanceUID")
    assert refused(step.change(begun(), ended(status, nameless))).status == 0x0120


def test_a_series_without_images_is_enough() -> None:
    assert taken(step.change(begun(), ended("COMPLETED", made("1.2")))).lapses == ()


def test_what_was_said_before_the_end_counts_at_the_end() -> None:
    before = taken(step.change(begun(), without(ended(), STATUS)))
    assert before.state == "in-progress"
    assert taken(step.change(before.attributes, {STATUS: ("COMPLETED",)})).state == "completed"


def test_a_series_that_lacks_its_protocol_is_a_lapse() -> None:
    poor: Attributes = {**made("1.2"), "ProtocolName": ()}
    answer = taken(step.change(begun(), ended("COMPLETED", poor)))
    assert [str(each) for each in answer.lapses] == ["PerformedSeriesSequence[1].ProtocolName has no value"]
    assert refused(step.change(begun(), ended("COMPLETED", poor), strict=True)).status == 0x0121


@pytest.mark.parametrize("status", ["COMPLETED", "DISCONTINUED"])
def test_nothing_follows_a_final_state(status: str) -> None:
    last = taken(step.change(begun(), ended(status))).attributes
    for said in (ended(), {STATUS: ("IN PROGRESS",)}, {"PerformedProcedureStepDescription": ("x",)}, {}):
        answer = refused(step.change(last, said))
        assert (answer.status, answer.error_id) == (0x0110, 0xA710)
    assert refused(step.change(last, ended(status))).repeated
    other = "COMPLETED" if status == "DISCONTINUED" else "DISCONTINUED"
    assert not refused(step.change(last, ended(other))).repeated


def test_what_may_not_be_set_stays_as_it_was() -> None:
    answer = taken(step.change(begun(), {"PatientID": ("200",), "PerformedProcedureStepDescription": ("CT",)}))
    assert step.text(answer.attributes, "PatientID") == "100"
    assert step.text(answer.attributes, "PerformedProcedureStepDescription") == "CT"
    assert (answer.status, answer.left_out) == (0x0107, ("PatientID",))
    strict = refused(step.change(begun(), {"PatientID": ("200",)}, strict=True))
    assert (strict.status, strict.keywords) == (0x0105, ("PatientID",))


def test_what_is_said_again_as_it_was_is_no_change() -> None:
    answer = taken(step.change(begun(), {"PatientID": ("100",)}, strict=True))
    assert (answer.status, answer.lapses) == (step.SUCCESS, ())


def test_what_was_not_created_is_a_lapse_to_set() -> None:
    never = without(begun(), "PerformedProcedureStepDiscontinuationReasonCodeSequence")
    why = {"PerformedProcedureStepDiscontinuationReasonCodeSequence": (reason("110500"),)}
    assert [lapse.kind for lapse in taken(step.change(never, why)).lapses] == ["not-created"]
    assert refused(step.change(never, why, strict=True)).status == 0x0105


def test_sequences_are_replaced_as_a_whole() -> None:
    one = taken(step.change(begun(), {"PerformedSeriesSequence": (made("1.1", "1.1.1"), made("1.2"))})).attributes
    two = taken(step.change(one, {"PerformedSeriesSequence": (made("1.3"),)})).attributes
    assert [each.series_instance_uid for each in step.series(two)] == ["1.3"]


def test_a_reference_to_nothing_is_a_lapse_and_counts_for_nothing() -> None:
    series: Attributes = {**made("1.2", "1.2.1"), "ReferencedNonImageCompositeSOPInstanceSequence": ({},)}
    answer = taken(step.change(begun(), ended("COMPLETED", series)))
    assert [each.instances for each in step.series(answer.attributes)] == [1]
    where = "PerformedSeriesSequence[1].ReferencedNonImageCompositeSOPInstanceSequence[1]"
    assert [str(each) for each in answer.lapses] == [
        f"{where}.ReferencedSOPClassUID is missing",
        f"{where}.ReferencedSOPInstanceUID is missing",
    ]


def test_instances_are_counted_once_each() -> None:
    said = {"PerformedSeriesSequence": (made("1.1", "a", "b", "b", others=("c", "a")), made("1.1", "d"), made("1.2"))}
    assert [(each.series_instance_uid, each.instances) for each in step.series(said)] == [("1.1", 4), ("1.2", 0)]


@pytest.mark.parametrize(
    ("said", "expected"),
    [
        ({}, datetime(2026, 11, 20, 12, 5, tzinfo=UTC)),
        ({"TimezoneOffsetFromUTC": ("-0330",)}, datetime(2026, 11, 20, 16, 35, tzinfo=UTC)),
        ({"TimezoneOffsetFromUTC": ("nonsense",)}, datetime(2026, 11, 20, 12, 5, tzinfo=UTC)),
        ({"PerformedProcedureStepStartTime": ("13",)}, datetime(2026, 11, 20, 12, 0, tzinfo=UTC)),
        ({"PerformedProcedureStepStartTime": ("130559.25",)}, datetime(2026, 11, 20, 12, 5, 59, 250_000, tzinfo=UTC)),
        ({"PerformedProcedureStepStartTime": ("13:05:60",)}, datetime(2026, 11, 20, 12, 5, 59, tzinfo=UTC)),
        ({"PerformedProcedureStepStartDate": ("2026.11.20",)}, datetime(2026, 11, 20, 12, 5, tzinfo=UTC)),
        ({"PerformedProcedureStepStartDate": ()}, None),
    ],
)
def test_a_step_starts_by_the_clock_of_its_site(said: Attributes, expected: datetime | None) -> None:
    assert step.moment({**created(), **said}, "Start", ZoneInfo("Africa/Malabo")) == expected


def test_the_wrong_entry_is_told_by_its_code() -> None:
    def ends(status: str, *codes: Attributes) -> Attributes:
        return ended(status, PerformedProcedureStepDiscontinuationReasonCodeSequence=codes)

    assert step.wrong_entry(ends("DISCONTINUED", reason("110500"), reason("110514")))
    assert not step.wrong_entry(ends("DISCONTINUED", reason("110514", "99LOCAL")))
    assert not step.wrong_entry(ends("COMPLETED", reason("110514")))


states = st.tuples(st.sampled_from(["in-progress", "completed", "discontinued"]), st.booleans())


@given(st.lists(states, max_size=4))
def test_what_becomes_of_a_scheduled_step_does_not_depend_on_the_order(performed: list[tuple[State, bool]]) -> None:
    assert len({step.effect(order) for order in permutations(performed)}) == 1


@given(st.lists(states, max_size=4))
def test_a_completed_step_never_goes_back(performed: list[tuple[State, bool]]) -> None:
    assert step.effect([*performed, ("completed", False)]) == "completed"
    later = step.effect([*performed, ("in-progress", False)])
    assert later == ("completed" if step.effect(performed) == "completed" else "in-progress")


UIDS = ["1.1", "1.2", "1.3"]
ENTRIES = ["S1", "S2", "S3"]
WRONG = (reason("110514"),)
#: Faults of attributes: gone, empty, or with a value that is none.
NONE = {"PerformedProcedureStepStartDate": "20261320", "PerformedProcedureStepStartTime": "2561", STATUS: "NONSENSE"}
NONE |= {"PerformedProcedureStepEndDate": "2026-1", "PerformedProcedureStepEndTime": "noon"}
TOP = sorted(row.keyword for row in mpps_model.ROWS if row.create != 3)
INSIDE = {row.keyword: [each.keyword for each in row.items] for row in mpps_model.ROWS if row.items}
faults = st.one_of(
    st.none(),
    st.none(),
    st.tuples(st.just("gone"), st.sampled_from(TOP)),
    st.tuples(st.just("empty"), st.sampled_from(TOP)),
    st.tuples(st.just("none"), st.sampled_from(sorted(NONE))),
    *(
        st.tuples(st.sampled_from(["gone in", "empty in"]), st.tuples(st.just(k), st.sampled_from(v)))
        for k, v in INSIDE.items()
    ),
)
#: Scheduled steps that one is for; none: an emergency, or what is appended without one.
entries = st.lists(st.sampled_from(ENTRIES), max_size=3, unique=True)
SETTABLE: dict[str, list[tuple[Any, ...]]] = {
    STATUS: [("IN PROGRESS",), ("COMPLETED",), ("DISCONTINUED",), ("COMPLETED",), ()],
    "PerformedProcedureStepEndDate": [("20261120",), ()],
    "PerformedProcedureStepEndTime": [("1315",), ()],
    "PerformedSeriesSequence": [
        (made("1.5", "1.5.1"),),
        (made("1.5"), made("1.6", "1.6.1", "1.6.2")),
        ({**made("1.5"), "ReferencedImageSequence": ({"ReferencedSOPClassUID": ("1.2",)}, {})},),
        (),
    ],
    "PerformedProcedureStepDescription": [("CT",), ()],
    "CommentsOnThePerformedProcedureStep": [("late",)],
    "PerformedProcedureStepDiscontinuationReasonCodeSequence": [WRONG, (reason("110500"),), ({},), ()],
    "SpecificCharacterSet": [("ISO_IR 192",)],
    # Optional in both, as all that the table does not name.
    "EntranceDoseInmGy": [("1.5",)],
    "IconImageSequence": [({"Rows": ("1",)},)],
}
FOREIGN: dict[str, list[tuple[Any, ...]]] = {
    "PatientID": [("100",), ("200",)],
    "Modality": [("CT",), ("MR",)],
    "PerformedStationAETitle": [("CT9",)],
    "ScheduledStepAttributesSequence": [(scheduled("1.9"),)],
}
changes = st.fixed_dictionaries(
    {}, optional={keyword: st.sampled_from(values) for keyword, values in {**SETTABLE, **FOREIGN}.items()}
)
#: What ends a step, as modalities send it.
endings = st.sampled_from(["COMPLETED", "DISCONTINUED"]).map(ended)


def with_fault(said: Attributes, fault: tuple[str, Any] | None) -> Attributes:
    """Give a request with a fault, or as it is."""
    if fault is None:
        return said
    kind, what = fault
    if kind == "gone":
        return without(said, what)
    if kind == "empty":
        return {**said, what: ()} if what in said else said
    if kind == "none":
        return {**said, what: (NONE[what],)} if what in said else said
    sequence, keyword = what
    first, *others = step.items(said, sequence) or ({},)
    worse = without(first, keyword) if kind == "gone in" else {**first, keyword: ()}
    return {**said, sequence: (worse, *others)} if step.items(said, sequence) else said


class StepMachine(RuleBasedStateMachine):
    """Any requests about several steps for several scheduled ones, against what the Standard's tables say of them."""

    def __init__(self) -> None:
        super().__init__()
        self.known: dict[str, Attributes] = {}
        self.model = {uid: mpps_model.Step() for uid in UIDS}

    def agree(self, answer: Accepted | Refused, found: set[mpps_model.Fault], *, strict: bool) -> bool:
        """Check an answer against what is wrong with the request; tell whether it is taken."""
        grave = {fault.status for fault in found if strict or fault.vital}
        if isinstance(answer, Refused):
            assert answer.status in grave, (answer, found)
            assert answer.comment
            return False
        assert not grave, (answer.lapses, found)
        assert bool(answer.lapses) == bool(found), (answer.lapses, found)
        return True

    @rule(
        uid=st.sampled_from(UIDS),
        for_steps=entries,
        status=st.sampled_from(["IN PROGRESS"] * 6 + ["COMPLETED", "DISCONTINUED", "", "SCHEDULED"]),
        reasons=st.booleans(),
        nameless=st.booleans(),
        fault=faults,
        strict=st.booleans(),
    )
    def create(
        self,
        uid: str,
        for_steps: list[str],
        status: str,
        reasons: bool,
        nameless: bool,
        fault: tuple[str, Any] | None,
        strict: bool,
    ) -> None:
        asked = created(*(scheduled(step_id=each, accession="A1") for each in for_steps))
        said = with_fault({**asked, STATUS: (status,) if status else ()}, fault)
        if nameless:
            # As modalities send it that have no such reference.
            first, *others = step.items(said, "ScheduledStepAttributesSequence") or ({},)
            said = {**said, "ScheduledStepAttributesSequence": ({**first, "ReferencedStudySequence": ({},)}, *others)}
        if not reasons:
            said = without(said, "PerformedProcedureStepDiscontinuationReasonCodeSequence")
        answer = step.create(said, self.known.get(uid), strict=strict)
        model = self.model[uid]
        if model.said is not None:
            # Section F.7.2.1: a UID is created once, PS3.7 section C.5.7.
            assert refused(answer).status == 0x0111
            return
        if self.agree(answer, model.create(said), strict=strict):
            self.known[uid] = taken(answer).attributes
            model.said = dict(said)

    @rule(
        uid=st.sampled_from(UIDS),
        said=st.one_of(changes, changes, endings),
        fault=faults,
        strict=st.sampled_from([False, False, True]),
    )
    def set(self, uid: str, said: Attributes, fault: tuple[str, Any] | None, strict: bool) -> None:
        model = self.model[uid]
        if model.said is None:
            return
        said = with_fault(said, fault)
        answer = step.change(self.known[uid], said, strict=strict)
        if model.status in mpps_model.FINAL:
            # Table F.7.2-2.
            final = refused(answer)
            assert (final.status, final.error_id) == (0x0110, 0xA710)
            assert final.comment == "Performed Procedure Step Object may no longer be updated"
            return
        found, after, left_out = model.set(said)
        if self.agree(answer, found, strict=strict):
            assert taken(answer).status == (0x0107 if left_out else 0x0000)
            self.known[uid] = taken(answer).attributes
            model.said = after

    @invariant()
    def each_step_says_what_was_taken(self) -> None:
        for uid, model in self.model.items():
            assert self.known.get(uid) == model.said
            if model.said is not None:
                states = {"in-progress": "IN PROGRESS", "completed": "COMPLETED", "discontinued": "DISCONTINUED"}
                assert states[step.state_of(self.known[uid]) or ""] == model.status

    @invariant()
    def scheduled_steps_become_what_was_performed_for_them(self) -> None:
        for entry in ENTRIES:
            ours: list[tuple[State, bool]] = []
            theirs = []
            for uid, said in self.known.items():
                model = self.model[uid]
                if entry not in {each.step_id for each in references(said)}:
                    continue
                state = step.state_of(said)
                assert state is not None
                ours.append((state, step.wrong_entry(said)))
                reasons = (model.said or {}).get("PerformedProcedureStepDiscontinuationReasonCodeSequence", ())
                theirs.append((model.status, tuple(reasons) == WRONG))
            assert step.effect(ours) == mpps_model.becomes(theirs)


TestStepMachine = StepMachine.TestCase
TestStepMachine.settings = settings(max_examples=100, stateful_step_count=15, deadline=None)
