"""Which entries are indexed together."""

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from services.ingest.arrival import Entry
from services.ingest.gathering import Batch, Gathering, Stride
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


def taken(rate: float, associations: int) -> list[float]:
    """Give when batches of the first association of a steady stream are taken, in twenty seconds."""
    found = Gathering(size=10_000, linger=0.05, longest=LONGEST)
    moments = []
    for number in range(int(20 * rate)):
        now = number / rate
        batches = found.take(now, 100_000)
        moments += [now for batch in batches if batch.entries[0].arrival.association_id == "0"]
        found.add(make_entry(number, association=str(number % associations)), now)
    return moments


def test_the_first_batch_of_an_association_goes_soon_and_the_next_wait_longer() -> None:
    moments = taken(1000, 1)
    assert [round(each, 1) for each in moments[:5]] == [0.1, 0.2, 0.5, 1.0, 2.0]
    waits = [later - earlier for earlier, later in pairwise(moments)]
    assert waits == sorted(waits)
    assert LONGEST <= waits[-1] <= LONGEST + 0.01


def test_where_many_send_the_first_batch_waits_too() -> None:
    assert 0.5 <= taken(1000, 20)[0] <= 0.6


def test_an_association_that_has_been_silent_begins_anew() -> None:
    found = Gathering(size=10_000, linger=0.05, longest=LONGEST)
    for second in (0.0, 2 * LONGEST + 1):
        for number in range(200):
            now = second + number / 1000
            if found.take(now, 10_000):
                break
            found.add(make_entry(number), now)
        assert second + 0.1 <= now <= second + 0.11
        found.take(second + 1, 10_000)


def test_while_little_is_coming_a_batch_goes_soon() -> None:
    assert all(later - earlier <= 0.15 for earlier, later in pairwise(taken(50, 1)))


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


def test_a_batch_of_more_than_a_transaction_has_is_cut() -> None:
    found = gathering()
    for number in range(SIZE + 1):
        found.add(make_entry(number), 0.0)
    taken = [numbers(found.take(LINGER, 2)) for _ in range(5)]
    assert [[len(batch) for batch in batches] for batches in taken] == [[2], [2], [1, 1], [], []]
    flat = [each for batches in taken for batch in batches for each in batch]
    assert flat == [make_entry(number).arrival.id for number in range(SIZE + 1)]


def test_one_that_failed_stays_whole() -> None:
    found = gathering()
    failed = Batch([make_entry(number) for number in range(5)], attempt=1)
    found.again(failed)
    assert found.take(0.0, 2) == [failed]


FIRST, LEAST, MOST, SOON = 25, 200, 500, 2.0


@given(st.lists(st.tuples(st.integers(1, MOST), st.floats(0, 10)), max_size=60))
def test_transactions_grow_while_they_are_soon_done_and_stay_within_bounds(took: list[tuple[int, float]]) -> None:
    stride = Stride(first=FIRST, least=LEAST, most=MOST, soon=SOON)
    assert stride.size == FIRST
    for entries, seconds in took:
        before = stride.size
        stride.took(entries, seconds)
        assert FIRST <= stride.size <= MOST
        if seconds > SOON:
            assert stride.size <= before
            assert stride.size >= min(before, LEAST)
        else:
            assert stride.size >= before


def test_full_and_quick_transactions_reach_the_largest_and_slow_ones_leave_it() -> None:
    stride = Stride(first=FIRST, least=LEAST, most=MOST, soon=SOON)
    sizes = []
    for _ in range(6):
        sizes.append(stride.size)
        stride.took(stride.size, SOON)
    assert sizes == [25, 50, 100, 200, 400, 500]
    for _ in range(3):
        stride.took(stride.size, SOON + 1)
        sizes.append(stride.size)
    assert sizes[6:] == [250, 200, 200]


def test_a_small_transaction_says_nothing_about_a_large_one() -> None:
    stride = Stride(first=FIRST, least=LEAST, most=MOST, soon=SOON)
    stride.took(FIRST // 2, 0.0)
    assert stride.size == FIRST


@given(st.integers(1, 3), st.integers(1, 400))
def test_a_backlog_is_worked_off_though_each_life_ends_after_few_transactions(lives: int, backlog: int) -> None:
    left = [make_entry(number, association=str(number % 7)) for number in range(backlog)]
    for _ in range(backlog):
        if not left:
            return
        before = len(left)
        found, stride = (
            Gathering(size=200, linger=LINGER, longest=LONGEST),
            Stride(first=25, least=200, most=500, soon=2),
        )
        for entry in left:
            found.add(entry, 0.0)
        for _ in range(lives):
            done = {entry.arrival.id for batch in found.take(LONGEST, stride.size) for entry in batch.entries}
            assert len(done) <= stride.size
            left = [entry for entry in left if entry.arrival.id not in done]
            stride.took(len(done), 1.0)
        assert len(left) < before
    assert not left


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
            assert len(entries) <= most
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
