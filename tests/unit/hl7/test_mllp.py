"""Frames of MLLP: whole ones come out whatever the pieces in which they arrive, and what is none is told."""

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from libs.hl7.mllp import MOST_NOISE, Frames, framed

pytestmark = pytest.mark.unit

TEXT = st.binary(max_size=40).map(lambda data: b"MSH|" + bytes(byte for byte in data if byte not in (0, 0x0B, 0x1C)))


def fed(*pieces: bytes, longest: int = 10_000) -> tuple[list[bytes], Frames]:
    frames = Frames(longest)
    return [frame for piece in pieces for frame in frames.feed(piece)], frames


@given(messages=st.lists(TEXT, max_size=5), cuts=st.lists(st.integers(0, 300), max_size=8))
@settings(max_examples=100)
def test_frames_come_out_whatever_the_pieces(messages: list[bytes], cuts: list[int]) -> None:
    wire = b"".join(map(framed, messages))
    places = sorted({0, len(wire), *(cut for cut in cuts if cut < len(wire))})
    found, frames = fed(*(wire[a:b] for a, b in pairwise(places)))
    assert found == messages
    assert (frames.open, frames.broken, frames.oddities) == (False, "", [])


@pytest.mark.parametrize("end", [b"\x1c", b"\x1c\r", b"\x1c\n", b"\x1c\r\n", b"\x1c\x1c\r"])
def test_an_end_without_its_return_is_an_end(end: bytes) -> None:
    assert fed(b"\x0bMSH|one" + end + b"\x0bMSH|two" + end)[0] == [b"MSH|one", b"MSH|two"]


def test_a_frame_without_an_end_gives_nothing() -> None:
    found, frames = fed(b"\x0bMSH|one\rPID|1")
    assert found == []
    assert frames.open
    assert frames.pending == 13


def test_a_frame_with_nothing_in_it_is_a_frame() -> None:
    found, frames = fed(b"\x0b\x1c\r\x0bMSH|one\x1c\r")
    assert (found, frames.oddities) == ([b"", b"MSH|one"], [])


def test_a_frame_that_was_cut_off_takes_no_frame_with_it_that_is_whole() -> None:
    found, frames = fed(b"\x0bMSH|one\rPID|\x0bMSH|two\x1c\r\x0bBHS|three\x1c\r")
    assert found == [b"MSH|two", b"BHS|three"]
    assert frames.oddities == ["truncated"]


def test_a_frame_that_was_cut_off_gives_way_to_the_next() -> None:
    found, frames = fed(b"\x0bMSH|one\rPID|", b"\x0bM", b"SH|two\x1c\r")
    assert found == [b"MSH|two"]
    assert frames.oddities == ["truncated"]


def test_a_start_within_a_text_is_text() -> None:
    assert fed(b"\x0bMSH|one\rNTE|\x0b|x\x1c\r")[0] == [b"MSH|one\rNTE|\x0b|x"]


def test_the_start_may_be_missing() -> None:
    found, frames = fed(b"MS", b"H|one\x1c\r")
    assert found == [b"MSH|one"]
    assert frames.oddities == ["no start"]


def test_noise_is_skipped() -> None:
    found, frames = fed(b"hello\r\n\x0bMSH|one\x1c\r")
    assert found == [b"MSH|one"]
    assert frames.oddities == ["noise"]


@pytest.mark.parametrize(
    ("sent", "said"),
    [
        (b"\x16\x03\x01\x02\x00", "TLS"),
        (b"GET / HTTP/1.1\r\n", "HTTP"),
        (b"x" * (MOST_NOISE + 1), "no HL7"),
    ],
)
def test_what_is_no_mllp_is_told(sent: bytes, said: str) -> None:
    found, frames = fed(sent)
    assert found == []
    assert said in frames.broken


def test_what_came_before_a_message_that_is_too_long_is_given() -> None:
    found, frames = fed(b"\x0bMSH|one\x1c\r\x0bMSH|" + b"x" * 200, longest=100)
    assert found == [b"MSH|one"]
    assert "100" in frames.broken
    assert frames.pending == 0


def test_a_message_of_the_greatest_length_is_taken() -> None:
    message = b"MSH|" + b"x" * 96
    assert fed(framed(message), longest=100)[0] == [message]
    assert fed(framed(message + b"x"), longest=100)[0] == []


def test_wide_characters_hold_the_bytes_of_frames() -> None:
    message = "MSH|ċĜ|".encode("utf-16")
    assert b"\x0b" in message
    assert b"\x1c" in message
    assert fed(framed(message))[0] == [message]


def test_a_frame_right_behind_noise_is_given() -> None:
    frames = Frames(1000)
    assert frames.feed(b"noise" + framed(b"MSH|1") + framed(b"MSH|2")) == [b"MSH|1", b"MSH|2"]
    assert frames.oddities == ["noise"]
