"""What an attempt of a delivery keeps of what it did."""

from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from services.egress.claim import FAILURES_TOLD, Stretch
from services.egress.outcome import Outcome, Verdict
from services.egress.parcel import Parcel

VERDICTS = st.sampled_from([None, *Verdict])


def parcel(item: int) -> Parcel:
    return Parcel(item, "d", (1, item), "1.2", f"1.2.{item}", "1.2.840.10008.1.2.1", "0" * 64, "k", 10 + item)


@given(st.lists(st.tuples(st.integers(0, 40), VERDICTS), max_size=120))
def test_its_figures_are_those_of_the_last_word_on_each_instance(steps: list[tuple[int, Verdict | None]]) -> None:
    stretch = Stretch("d", "t", None, "1.2", "archive", 1, datetime(2026, 11, 22, tzinfo=UTC), None)
    last: dict[int, Verdict | None] = {}
    for item, verdict in steps:
        if last.get(item) in (Verdict.SENT, Verdict.WARNING):
            continue  # what has arrived is never taken in hand again
        stretch.add([parcel(item)], closed=False)
        assert stretch.bytes_in_hand == 10 + item
        if verdict is None:
            stretch.drop(parcel(item))
        else:
            stretch.note(parcel(item), Outcome(item, verdict, "0000", "why"))
        last[item] = verdict
    arrived = [item for item, verdict in last.items() if verdict in (Verdict.SENT, Verdict.WARNING)]
    assert not stretch.in_hand
    assert stretch.sent == len(arrived)
    assert stretch.bytes_sent == sum(10 + item for item in arrived)
    assert stretch.warnings == sum(verdict is Verdict.WARNING for verdict in last.values())
    assert stretch.unsent == last.keys() - set(arrived)
    assert len(stretch.failures) <= FAILURES_TOLD
