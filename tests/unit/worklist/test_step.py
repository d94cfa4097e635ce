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
from services.worklist.step import Accepted, Refused, State
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
    answer = refused(step.create(created(**{STATUS: (status,)})))
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
    empty = refused(step.create(created(**{keyword: ()})))
    assert (empty.status, empty.keywords) == (0x0121, (keyword,))


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
    answer = refused(step.create(created(**{keyword: (value,)})))
    assert (answer.status, answer.keywords) == (0x0106, (keyword,))


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
    poor = made("1.2") | {"ProtocolName": ()}
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


class StepMachine(RuleBasedStateMachine):
    """Any requests about one step, against what the Standard's text says of it."""

    def __init__(self) -> None:
        super().__init__()
        self.known: Attributes | None = None
        #: The model: state, whether an end and whether a series was said.
        self.state: str | None = None
        self.has_end = self.has_series = False

    @rule(status=st.sampled_from(["IN PROGRESS", "COMPLETED", "DISCONTINUED", "", "NONSENSE"]))
    def create(self, status: str) -> None:
        answer = step.create(created(**{STATUS: (status,) if status else ()}), self.known)
        if self.state is not None:
            assert refused(answer).status == 0x0111
        elif status == "IN PROGRESS":
            self.known, self.state = taken(answer).attributes, "IN PROGRESS"
        else:
            assert refused(answer).status == (0x0106 if status else 0x0121)

    @rule(
        status=st.sampled_from([None, "IN PROGRESS", "COMPLETED", "DISCONTINUED", "NONSENSE"]),
        end=st.booleans(),
        series=st.sampled_from([None, 0, 1, 2]),
    )
    def set(self, status: str | None, end: bool, series: int | None) -> None:
        if self.known is None:
            return
        said: dict[str, Any] = {}
        if status is not None:
            said[STATUS] = (status,)
        if end:
            said |= {"PerformedProcedureStepEndDate": ("20261120",), "PerformedProcedureStepEndTime": ("1315",)}
        if series is not None:
            said["PerformedSeriesSequence"] = tuple(made(f"1.{number}", f"1.{number}.1") for number in range(series))
        answer = step.change(self.known, said)
        if self.state in ("COMPLETED", "DISCONTINUED"):
            assert (refused(answer).status, refused(answer).error_id) == (0x0110, 0xA710)
            return
        if status == "NONSENSE":
            assert refused(answer).status == 0x0106
            return
        has_end, has_series = self.has_end or end, self.has_series if series is None else series > 0
        if status in ("COMPLETED", "DISCONTINUED") and not (has_end and has_series):
            assert refused(answer).status == 0x0121
            return
        self.known = taken(answer).attributes
        self.state, self.has_end, self.has_series = status or self.state, has_end, has_series

    @invariant()
    def is_as_the_model_says(self) -> None:
        if self.known is not None:
            assert step.text(self.known, STATUS) == self.state
            assert step.text(self.known, "PatientID") == "100"
            assert bool(step.series(self.known)) == self.has_series


TestStepMachine = StepMachine.TestCase
TestStepMachine.settings = settings(max_examples=60, stateful_step_count=12, deadline=None)
