from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.dimse import command as commands
from libs.dimse.command import Command
from libs.dimse.pdu import FRAGMENT, HEADER, LAST, Kind, MalformedError, encode_p_data

numbers = st.integers(0, 65535).map(lambda each: each.to_bytes(2, "little"))
others = st.dictionaries(
    st.integers(0x1001, 0xFFFF), st.binary(max_size=40).map(lambda value: value + b"\0" * (len(value) % 2)), max_size=6
)


@st.composite
def command_sets(draw: st.DrawFn) -> Command:
    return Command({**draw(others), **{each: draw(numbers) for each in (0x0100, 0x0110, 0x0120, 0x0800)}})


@given(command_sets())
def test_a_command_set_survives(command: Command) -> None:
    assert commands.decode(commands.encode(command)) == command


@given(st.binary(max_size=200))
def test_any_bytes_are_a_command_set_or_malformed(data: bytes) -> None:
    with suppress(MalformedError):
        assert commands.decode(data).field >= 0


def test_a_response_repeats_the_request() -> None:
    request = commands.store_request(513, "1.2.840.10008.5.1.4.1.1.2", "1.2.3")
    response = commands.decode(commands.encode(commands.response(request, 0xA700, "no room" + "!" * 80)))
    assert (response.field, response.responded_to, response.status) == (0x8001, 513, 0xA700)
    assert (response.sop_class_uid, response.sop_instance_uid) == (request.sop_class_uid, "1.2.3")
    assert not response.has_dataset
    assert len(response.text(0x0902)) == 64


@pytest.mark.parametrize(("length", "repeated"), [(64, True), (65, False), (2000, False)])
def test_a_response_does_not_repeat_what_is_no_identifier(length: int, repeated: bool) -> None:
    request = commands.store_request(1, "1.2.840.10008.5.1.4.1.1.2", "9" * length)
    response = commands.decode(commands.encode(commands.response(request, 0x0117)))
    assert response.sop_instance_uid == ("9" * length if repeated else "")


@pytest.mark.parametrize("missing", [0x0100, 0x0110, 0x0800])
def test_a_command_set_that_cannot_be_answered_is_malformed(missing: int) -> None:
    elements = dict(commands.echo_request(1).elements)
    del elements[missing]
    with pytest.raises(MalformedError):
        commands.decode(commands.encode(Command(elements)))


@given(st.binary(min_size=2, max_size=400), st.integers(8, 500), st.booleans())
def test_p_data_keeps_to_the_longest_pdu(data: bytes, max_pdu: int, command: bool) -> None:
    raw, joined, flags = encode_p_data(9, data, command=command, max_pdu=max_pdu), b"", []
    while raw:
        kind, length = HEADER.unpack_from(raw)
        assert (kind, length <= max_pdu) == (Kind.P_DATA, True)
        size, context_id, flag = FRAGMENT.unpack_from(raw, HEADER.size)
        assert (size, context_id, flag & 1) == (length - 4, 9, command)
        joined += raw[HEADER.size + FRAGMENT.size : HEADER.size + length]
        flags.append(flag & LAST)
        raw = raw[HEADER.size + length :]
    assert joined == data
    assert flags == [0] * (len(flags) - 1) + [LAST]
