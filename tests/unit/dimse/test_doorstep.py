import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.dimse.doorstep import Doorstep
from services.ingest.pace import Pace

pytestmark = pytest.mark.unit
steps = st.lists(st.tuples(st.sampled_from("abc"), st.booleans()), max_size=60)


@given(steps, st.integers(1, 6), st.integers(1, 4))
def test_never_more_than_allowed_and_the_newest_always_gets_in(
    steps: list[tuple[str, bool]], most: int, most_an_address: int
) -> None:
    doorstep = Doorstep(most, most_an_address)
    standing: dict[int, str] = {}
    for number, (address, leaves) in enumerate(steps):
        if leaves and standing:
            gone = min(standing)
            doorstep.leave(gone)
            doorstep.leave(gone)
            del standing[gone]
            continue
        pushed_out = doorstep.enter(number, address)
        full_address = list(standing.values()).count(address) >= most_an_address
        assert (pushed_out is not None) == (full_address or len(standing) >= most)
        if pushed_out is not None:
            of_same = [each for each, at in standing.items() if at == standing[pushed_out]]
            assert pushed_out == min(of_same)
            if full_address:
                assert standing[pushed_out] == address
            del standing[pushed_out]
        standing[number] = address
        assert len(doorstep) == len(standing) <= most
        assert all(list(standing.values()).count(each) <= most_an_address for each in standing.values())


def test_answers_are_held_back_gently_and_only_while_there_is_a_backlog() -> None:
    depth = 0
    pace = Pace(lambda: depth, 100)
    said = []
    for depth in (0, 100, 104, 110, 150, 200, 1000, 150, 100, 0):  # noqa: B007 (Pace looks at it)
        changed = pace.changed()
        said.append((changed, pace.seconds))
    assert [seconds for changed, seconds in said if changed] == [0.1, 0.5, 1.0, 0.5, 0.0]
    assert [seconds for _, seconds in said] == [0, 0, 0, 0.1, 0.5, 1, 1, 0.5, 0, 0]
