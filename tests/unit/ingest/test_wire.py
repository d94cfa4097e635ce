import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.ingest.wire import Frames, OutOfStepError, frame

pytestmark = pytest.mark.unit
messages = st.lists(
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(), max_size=4).map(lambda rest: {**rest, "kind": "x"}),
    max_size=6,
)


@given(messages, st.lists(st.integers(1, 40), min_size=1))
def test_messages_come_whole_however_they_are_split(sent: list[dict[str, object]], sizes: list[int]) -> None:
    data = b"".join(map(frame, sent))
    frames, got, at, turn = Frames(), [], 0, 0
    while at < len(data):
        size = sizes[turn % len(sizes)]
        got += list(frames.feed(data[at : at + size]))
        at, turn = at + size, turn + 1
    assert got == sent


@pytest.mark.parametrize("data", [b"\xff\xff\xff\xff", b"\0\0\0\2{]", b"\0\0\0\2[]", b"\0\0\0\2{}"])
def test_what_is_no_message_is_out_of_step(data: bytes) -> None:
    with pytest.raises(OutOfStepError):
        list(Frames().feed(data))


def test_a_message_is_json_after_its_length() -> None:
    data = frame({"kind": "sync", "number": 3})
    assert int.from_bytes(data[:4], "big") == len(data) - 4
    assert json.loads(data[4:]) == {"kind": "sync", "number": 3}


def test_who_stops_in_the_middle_gets_the_rest_next_time() -> None:
    frames, sent = Frames(), [{"kind": "sync", "number": number} for number in range(3)]
    data = b"".join(map(frame, sent))
    assert next(frames.feed(data[:-1])) == sent[0]
    assert list(frames.feed(data[-1:])) == sent[1:]


def test_what_was_said_before_the_two_are_out_of_step_counts() -> None:
    messages = Frames().feed(frame({"kind": "sync", "number": 1}) + b"\0\0\0\2\xff\xff")
    assert next(messages) == {"kind": "sync", "number": 1}
    with pytest.raises(OutOfStepError):
        next(messages)
