"""Which entries are indexed together."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.arrival import Entry
from services.ingest.gathering import Batch, Gathering
from tests.unit.ingest.entries import make_entry

SIZE, LINGER, LONGEST = 5, 1.0, 4.0


def gathering() -> Gathering:
    return Gathering(size=SIZE, linger=LINGER, longest=LONGEST)


def numbers(batches: list[Batch]) -> list[list[str]]:
    return [[entry.arrival.id for entry in batch.entries] for batch in batches]


def test_a_lone_entry_waits_for_the_next_and_no_longer() -> None:
    found = gathering()
    found.add(make_entry(1), 10.0)
    assert found.take(10.9, 100) == []
    assert found.next() == 11.0
    assert len(found.take(11.0, 100)) == 1
    assert found.next() is None


def test_while_more_is_coming_a_batch_waits_up_to_its_bound() -> None:
    found = Gathering(size=100, linger=LINGER, longest=LONGEST)
    for step in range(8):
        assert found.take(step / 2, 100) == []
        found.add(make_entry(step), step / 2)
    assert found.next() == 4.0
    (batch,) = found.take(4.0, 100)
    assert len(batch.entries) == 8


def test_a_full_batch_goes_at_once() -> None:
    found = gathering()
    for number in range(SIZE + 1):
        found.add(make_entry(number), 0.0)
    assert found.next() == float("-inf")
    assert [len(batch.entries) for batch in found.take(0.0, 100)] == [SIZE]
    assert found.next() == LINGER


def test_what_failed_or_was_refused_comes_alone() -> None:
    found = gathering()
    good, refused = make_entry(1), make_entry(2, accepted=False)
    failed = Batch([make_entry(3)], attempt=1)
    found.add(good, 0.0)
    found.add(refused, 0.0)
    found.again(failed)
    taken = [found.take(LINGER, 100) for _ in range(4)]
    assert taken == [[Batch([refused])], [failed], [Batch([good])], []]


arriving = st.lists(
    st.tuples(
        st.floats(0, 2),  # since the one before
        st.sampled_from(["1.2.3", "1.2.4"]),
        st.sampled_from("ab"),
        st.sampled_from([True, True, True, False]),
    ),
    max_size=60,
)


@given(arriving, st.integers(1, 20))
def test_every_entry_comes_out_once_in_time_and_among_its_own(
    steps: list[tuple[float, str, str, bool]], most: int
) -> None:
    found = gathering()
    came: dict[str, float] = {}
    went: dict[str, float] = {}
    seen: list[Entry] = []

    def take_all(until: float) -> None:
        while (due := found.next()) is not None and due <= until:
            at = max(due, now)
            batches = found.take(at, most)
            assert batches
            entries = [entry for batch in batches for entry in batch.entries]
            assert len(batches) == 1 or len(entries) <= most
            for batch in batches:
                first = batch.entries[0]
                assert len(batch.entries) <= SIZE
                assert len({(*entry.study, entry.arrival.association_id) for entry in batch.entries}) == 1
                assert first.accepted or len(batches) == len(batch.entries) == 1
                assert all(a.arrival.id < b.arrival.id for a, b in pairwise(batch.entries))
            seen.extend(entries)
            went.update((entry.arrival.id, at) for entry in entries)

    now = 0.0
    for number, (pause, study, association, accepted) in enumerate(steps):
        take_all(now + pause)
        now += pause
        entry = make_entry(number, study=study, association=association, accepted=accepted)
        came[entry.arrival.id] = now
        found.add(entry, now)
    take_all(float("inf"))
    assert sorted(entry.arrival.id for entry in seen) == sorted(came)
    assert all(went[each] - came[each] <= LONGEST for each in came)
