"""Messages come in any order and any number of times; what modalities see in the end is always the same."""

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.worklist.change import Change, Number
from tests.unit.worklist.said import JANE, JOHN, Books, about, merge, order

NAMES = st.sampled_from([("DOE^JANE",), ("ROE^JANE",), ()])
OLD = Number("099", "HIS")
#: The same identifier as one of them, but of nobody who is known.
OWN = Number("100", site="malabo")
STEPS = st.dictionaries(
    st.sampled_from(["", "S1", "S2", "S3"]),
    st.fixed_dictionaries(
        {}, optional={"Modality": st.sampled_from([("CT",), ("MR",), ()]), "ScheduledStationAETitle": st.just(("CT1",))}
    ),
    max_size=3,
)


@st.composite
def changes(draw: st.DrawFn, minute: int) -> Change:
    kind = draw(st.sampled_from(["order"] * 6 + ["about"]))
    # Several messages have the same stamp: MSH-7 often has no seconds.
    stamp, message = minute // 2, f"m{minute}"
    if kind == "about":
        patient = draw(st.sampled_from([JANE, JOHN, OLD, OWN]))
        said = about(stamp, patient, PatientName=draw(NAMES), PatientWeight=(str(minute),))
        return type(said)(
            type(said.origin)("HIS", message, 0, said.origin.stamp), said.tenant, patient, said.about_patient
        )
    numbers: dict[str, Any] = draw(
        st.sampled_from(
            [
                {"placer": "P1"},
                {"filler": "F1"},
                {"placer": "P1", "filler": "F1"},
                {"placer": "P1", "accession": "A1"},
                {"accession": "A1"},
                {"placer": "P2", "accession": "A1"},
                {"placer": "P2", "filler": "F2"},
            ]
        )
    )
    optional: dict[str, Any] = {
        "RequestedProcedureDescription": st.sampled_from([("HEAD",), ("CHEST",), ()]),
        "StudyInstanceUID": st.just(("1.2.3",)),
    }
    return order(
        stamp,
        draw(
            st.sampled_from(["schedule", "schedule", "update", "arrive", "start", "complete", "discontinue", "cancel"])
        ),
        **numbers,
        patient=draw(st.sampled_from([JANE, JANE, JOHN, OLD, OWN])),
        about=draw(st.fixed_dictionaries({}, optional=optional)),
        person=draw(
            st.fixed_dictionaries({}, optional={"PatientName": NAMES, "PatientWeight": st.just((str(minute),))})
        ),
        steps=draw(STEPS),
        message=message,
    )


@st.composite
def histories(draw: st.DrawFn) -> tuple[list[Change], list[Change]]:
    """Draw messages of two orders, and the same in another order with some repeated."""
    said = [draw(changes(minute)) for minute in range(draw(st.integers(1, 8)))]
    if draw(st.booleans()):
        said += [merge(20), merge(21, JANE, OLD)][: draw(st.integers(1, 2))]
    repeated = draw(st.lists(st.sampled_from(said), max_size=4))
    return said, draw(st.permutations([*said, *repeated]))


@given(histories())
@settings(max_examples=100, deadline=None)
def test_the_end_is_the_same_in_any_order(history: tuple[list[Change], list[Change]]) -> None:
    straight, shuffled = Books(), Books()
    for change in history[0]:
        straight.take(change)
    for change in history[1]:
        shuffled.take(change)
    assert shuffled.items() == straight.items()
    assert shuffled.states() == straight.states()


@given(histories())
@settings(max_examples=100, deadline=None)
def test_one_message_or_many_make_no_difference_to_patients(history: tuple[list[Change], list[Change]]) -> None:
    """Merging first or last is the same, and undoing it gives back what was there."""
    said = [change for change in history[0] if not hasattr(change, "kept")]
    before, after = Books(), Books()
    for change in said:
        before.take(change)
        after.take(change)
    after.take(merge(50))
    after.take(merge(51, JANE, OLD))
    after.unmerge(OLD)
    after.unmerge(JOHN)
    assert after.items() == before.items()
