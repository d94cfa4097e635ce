"""Responses with datasets, and what a peer may say between them."""

from collections.abc import Iterable, Iterator, Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.dimse import associate
from libs.dimse import command as commands
from libs.dimse.acceptor import Association
from libs.dimse.cancel import cancellation
from libs.dimse.command import Command
from libs.dimse.negotiation import Context, Request
from libs.dimse.pdu import COMMAND, FRAGMENT, Kind
from libs.dimse.provider import Ending, Gathered, Reply, Said, Sink
from tests.support.association import (
    ABORT,
    CT,
    OPTIONS,
    PEER,
    RELEASE,
    REQUEST,
    Recorder,
    Scripted,
    echo,
    fragments,
    p_data,
    split,
)

RQ = associate.encode_request(REQUEST)
CANCEL = commands.encode(commands.cancel_request(7))


class Finding(Recorder):
    """Answers each request with so many pending responses and one that is final."""

    def __init__(self, matches: int) -> None:
        super().__init__()
        self.matches = matches
        self.asked: list[bytes] = []
        self.given = 0
        self.closed = 0

    def receive(self, context: Context, command: Command) -> Sink:
        assert context.id == 1
        return Gathered(command, 1000, lambda data: self.found(command, data))

    def answer(self, context: Context, command: Command) -> Iterable[Command | Reply]:
        assert context.id == 3
        yield Reply(commands.response(command, 0, dataset=True), b"got!")

    def found(self, command: Command, data: bytes) -> Iterator[Command | Reply]:
        self.asked.append(data)
        try:
            for number in range(self.matches):
                self.given += 1
                pending = commands.response(command, commands.PENDING, dataset=True)
                yield Reply(pending, b"%06d" % number)
            yield commands.response(command, commands.SUCCESS)
        finally:
            self.closed += 1


def find(number: int, data: bytes = b"keys") -> bytes:
    command = commands.encode(commands.find_request(number, CT))
    return p_data(*fragments(1, command, command=True)) + p_data(*fragments(1, data, command=False))


def cancel(number: int, sizes: Sequence[int] = ()) -> bytes:
    return p_data(*fragments(1, commands.encode(commands.cancel_request(number)), command=True, sizes=sizes))


def converse(
    data: bytes, matches: int, *, waits: Iterable[bool] = (), request: bytes = RQ
) -> tuple[Ending, Finding, bytes]:
    finding = Finding(matches)
    connected = Scripted(request + data)
    waiting = iter(waits)
    association = Association(connected, PEER, finding, OPTIONS, now=lambda: 0.0, waiting=lambda: next(waiting, False))
    ending = association.run()
    assert finding.closed == len(finding.asked)
    return ending, finding, bytes(connected.sent)


def said(sent: bytes) -> list[tuple[int, bytes]]:
    """Give status and dataset of each response, put together from fragments of any size."""
    found: list[tuple[int, bytes]] = []
    command, data = b"", b""
    for kind, body in split(sent):
        if kind != Kind.P_DATA:
            continue
        size, _, flags = FRAGMENT.unpack_from(body)
        assert size + 4 == len(body)
        part = body[FRAGMENT.size :]
        if flags & COMMAND:
            command += part
        else:
            data += part
        if flags & 2:
            response = commands.decode(command)
            if flags & COMMAND and response.has_dataset:
                continue
            found.append((response.status, data))
            command = data = b""
    return found


@pytest.mark.parametrize("longest", [0, 64, 16384])
def test_matches_come_in_order_each_with_its_dataset_then_the_end(longest: int) -> None:
    request = associate.encode_request(Request("K", "M", REQUEST.contexts, longest, "1.2"))
    ending, finding, sent = converse(find(7) + RELEASE, 3, request=request)
    assert ending is Ending.RELEASED
    assert finding.asked == [b"keys"]
    assert said(sent) == [(0xFF00, b"000000"), (0xFF00, b"000001"), (0xFF00, b"000002"), (0, b"")]
    assert all(longest == 0 or len(body) <= longest for kind, body in split(sent) if kind == Kind.P_DATA)


def test_a_request_without_dataset_can_be_answered_with_one() -> None:
    ending, _, sent = converse(echo(2) + RELEASE, 0)
    assert (ending, said(sent)) == (Ending.RELEASED, [(0, b"got!")])


@pytest.mark.parametrize("sizes", [(), (10,), (1, 2, 3, 4)])
def test_a_cancel_between_matches_ends_them(sizes: Sequence[int]) -> None:
    ending, finding, sent = converse(find(7) + cancel(7, sizes) + find(8) + RELEASE, 5)
    assert ending is Ending.RELEASED
    statuses = [status for status, _ in said(sent)]
    assert statuses == [0xFF00, 0xFE00, *[0xFF00] * 5, 0]
    assert finding.asked == [b"keys", b"keys"]
    assert finding.given == 1 + 5


def test_a_cancel_of_another_request_ends_nothing() -> None:
    ending, _, sent = converse(find(7) + cancel(9) + RELEASE, 2)
    assert (ending, [status for status, _ in said(sent)]) == (Ending.RELEASED, [0xFF00, 0xFF00, 0])


def test_a_cancel_after_the_last_response_has_no_effect() -> None:
    ending, _, sent = converse(find(7) + cancel(7) + RELEASE, 0)
    assert (ending, [status for status, _ in said(sent)]) == (Ending.RELEASED, [0])


def test_a_request_that_comes_too_early_waits_for_its_turn() -> None:
    ending, finding, sent = converse(find(7, b"one ") + find(8, b"two ") + cancel(7) + RELEASE, 2)
    assert ending is Ending.RELEASED
    assert finding.asked == [b"one ", b"two "]
    assert [status for status, _ in said(sent)] == [0xFF00, 0xFF00, 0, 0xFF00, 0xFF00, 0]


def test_an_abort_between_matches_ends_them() -> None:
    ending, finding, sent = converse(find(7) + ABORT, 1000)
    assert (ending, finding.given) == (Ending.ABORTED, 1)
    assert split(sent)[-1][0] == Kind.P_DATA


def test_a_peer_that_goes_between_matches_is_not_sent_the_rest() -> None:
    ending, finding, _ = converse(find(7), 1000, waits=[False, True])
    assert (ending, finding.given) == (Ending.LOST, 2)


def test_what_comes_between_matches_is_kept_in_one_buffer_whatever_it_is() -> None:
    early = b"".join(echo(number) for number in range(1, 20_000))
    finding = Finding(3)
    connected = Scripted(RQ + find(7) + early)
    association = Association(connected, PEER, finding, OPTIONS, now=lambda: 0.0, waiting=lambda: True)
    assert association.run() is Ending.LOST
    assert len(association._link.view) == 1 << 18
    assert [status for status, _ in said(bytes(connected.sent))][:4] == [0xFF00] * 3 + [0]


def test_a_dataset_that_is_too_long_is_refused_and_not_kept() -> None:
    ending, finding, sent = converse(find(7, bytes(1002)) + find(8) + RELEASE, 0)
    assert (ending, finding.asked) == (Ending.RELEASED, [b"keys"])
    assert [status for status, _ in said(sent)] == [commands.RESOURCE_LIMITATION, 0]


def test_an_endless_answer_to_a_defect_is_closed() -> None:
    class Broken(Finding):
        def found(self, command: Command, data: bytes) -> Iterator[Command | Reply]:
            for number, each in enumerate(super().found(command, data)):
                yield each
                1 / (1 - number)

    broken = Broken(5)
    with pytest.raises(ZeroDivisionError):
        Association(Scripted(RQ + find(7)), PEER, broken, OPTIONS, now=lambda: 0.0).run()
    assert broken.endings == [Ending.FAILED]


@given(st.integers(0, 0xFFFF), st.lists(st.integers(1, 30), max_size=6), st.booleans(), st.binary(max_size=40))
def test_a_cancel_is_found_however_it_is_cut(number: int, sizes: list[int], together: bool, after: bytes) -> None:
    parts = fragments(1, commands.encode(commands.cancel_request(number)), command=True, sizes=sizes)
    stream = p_data(*parts) if together else b"".join(p_data(each) for each in parts)
    assert cancellation(memoryview(stream + after)) == (len(stream), number)
    for short in range(len(stream)):
        assert cancellation(memoryview(stream[:short])) is None


@given(st.binary(max_size=60), st.integers(0, 80))
def test_nothing_else_is_taken_for_a_cancel(data: bytes, at: int) -> None:
    stream = bytearray(p_data(*fragments(1, CANCEL, command=True)))
    stream[at : at + len(data)] = data
    found = cancellation(memoryview(bytes(stream)))
    assert found is None or found[0] <= len(stream)


def test_requests_of_normalised_services_are_read_as_they_are_written() -> None:
    create = commands.decode(commands.encode(commands.create_request(1, "1.2.3", "1.2.3.4")))
    assert (create.field, create.sop_class_uid, create.sop_instance_uid, create.has_dataset) == (
        commands.N_CREATE_RQ,
        "1.2.3",
        "1.2.3.4",
        True,
    )
    for made in (
        commands.set_request(2, "1.2.3", "1.2.3.4"),
        commands.get_request(3, "1.2.3", "1.2.3.4", [0x00100010]),
    ):
        request = commands.decode(commands.encode(made))
        assert (request.requested_class_uid, request.requested_instance_uid) == ("1.2.3", "1.2.3.4")
        answer = commands.decode(
            commands.encode(commands.response(request, commands.PROCESSING_FAILURE, error_id=0xA710, dataset=True))
        )
        assert (answer.sop_class_uid, answer.sop_instance_uid) == ("1.2.3", "1.2.3.4")
        assert (answer.field, answer.status, answer.error_id) == (request.field | 0x8000, 0x0110, 0xA710)
        assert answer.has_dataset
    assert request.attributes == (0x00100010,)
    assert commands.get_request(3, "1.2.3", "1.2.3.4").attributes == ()


def test_the_response_to_a_create_names_what_was_made() -> None:
    request = commands.create_request(1, "1.2.3", "")
    assert commands.response(request, 0, sop_instance_uid="1.2.3.9").sop_instance_uid == "1.2.3.9"


def test_a_sink_gives_what_it_is_told_to() -> None:
    given: list[bytes] = []

    def answered(data: bytes) -> Said:
        given.append(data)
        return commands.response(commands.find_request(1, "1.2"), 0)

    sink = Gathered(commands.find_request(1, "1.2"), 4, answered)
    sink.write(memoryview(b"ab"))
    sink.write(memoryview(b"cd"))
    assert isinstance(sink.finish(), Command)
    assert given == [b"abcd"]
    Gathered(commands.find_request(1, "1.2"), 4, answered).abandon()
    assert given == [b"abcd"]
