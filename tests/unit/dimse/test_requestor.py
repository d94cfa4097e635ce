import socket
import ssl
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.dimse import associate, pdu
from libs.dimse import command as commands
from libs.dimse.acceptor import Association as Acceptor
from libs.dimse.connection import LostError, StoppedError, TimedOutError
from libs.dimse.negotiation import Agreement, Context, Proposed, RefusedContext, Request
from libs.dimse.pdu import COMMAND, FRAGMENT, HEADER, LAST, Kind, MalformedError, Reason, Rejection, Source
from libs.dimse.requestor import (
    LONGEST_AGREEMENT,
    LONGEST_COMMAND,
    LONGEST_DATASET,
    AbortedError,
    Association,
    Patience,
    RejectedError,
    ReleasedError,
)
from tests.support.association import (
    ABORT,
    BREAKS,
    CT,
    EXPLICIT,
    IMPLICIT,
    OPTIONS,
    PEER,
    RELEASE,
    SILENT,
    VERIFICATION,
    Recorder,
    Scripted,
    fragment,
    fragments,
    p_data,
    split,
)
from tests.support.authority import Authority

PATIENCE = Patience(acse=30, response=60, network=20)
REQUEST = Request(
    called_aet="ARCHIVE",
    calling_aet="KIVUKO",
    contexts=(Proposed(1, CT, (EXPLICIT,)), Proposed(3, CT, (IMPLICIT,)), Proposed(5, VERIFICATION, (IMPLICIT,))),
    max_pdu=1 << 16,
    implementation_class_uid="1.2.3.4",
    window=(8, 1),
)
STORE = commands.store_request(1, CT, "1.2.3.1")
RELEASED = pdu.encode_release_rp()


def agreement(
    *, max_pdu: int = 16384, window: tuple[int, int] | None = None, contexts: Sequence[Context | RefusedContext] = ()
) -> bytes:
    """Write an A-ASSOCIATE-AC."""
    agreed = tuple(contexts) or (Context(1, "", EXPLICIT), RefusedContext(3, 4), Context(5, "", IMPLICIT))
    return associate.encode_agreement(Agreement("ARCHIVE", "KIVUKO", agreed, max_pdu, "1.2.3.5", window=window))


def answer(number: int, status: int = 0, context_id: int = 1, sizes: Sequence[int] = ()) -> bytes:
    """Write a C-STORE response, one P-DATA-TF for each fragment."""
    response = commands.response(commands.store_request(number, CT, f"1.2.3.{number}"), status)
    return b"".join(p_data(each) for each in parts(context_id, commands.encode(response), sizes))


def parts(context_id: int, data: bytes, sizes: Sequence[int]) -> list[bytes]:
    return fragments(context_id, data, command=True, sizes=sizes)


class Gathering(Scripted):
    """One that takes many buffers at once, and of them as many bytes as it likes."""

    def __init__(self, data: bytes, takes: Iterable[int]) -> None:
        super().__init__(data)
        self._takes = iter(takes)

    def sendmsg(self, buffers: Sequence[bytes | memoryview], /) -> int:
        assert 0 < len(buffers) <= 1024
        data = b"".join(buffers)
        count = min(next(self._takes, len(data)), len(data))
        self.sent += data[:count]
        return count


def associated(
    data: bytes, sizes: Iterable[int] = (), then: str = SILENT, *, max_pdu: int = 16384
) -> tuple[Association, Scripted]:
    """Ask for an association with a peer that will say this; `sent` begins anew after it."""
    connected = Scripted(agreement(max_pdu=max_pdu) + data, sizes, then)
    association = Association(connected, PATIENCE, now=lambda: 0.0)
    association.ask(REQUEST)
    connected.sent.clear()
    return association, connected


def connected_pair() -> tuple[socket.socket, socket.socket]:
    """Make a connection of TCP over loopback; give both ends."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        near = socket.create_connection(server.getsockname())
        return near, server.accept()[0]


def sent_messages(sent: bytes, max_pdu: int) -> list[tuple[int, bytes, bytes]]:
    """Read messages as a peer would: context, command set, dataset. Fragments are even, PDUs not longer than agreed."""
    found: list[tuple[int, bytes, bytes]] = []
    command, dataset = b"", b""
    for kind, body in split(sent):
        assert kind == Kind.P_DATA
        assert not max_pdu or len(body) <= max(max_pdu, FRAGMENT.size + 2)
        length, context_id, flags = FRAGMENT.unpack_from(body)
        assert length == len(body) - 4
        data = body[FRAGMENT.size :]
        assert len(data) % 2 == 0
        if flags & COMMAND:
            command += data
        else:
            dataset += data
        if flags & LAST and (not flags & COMMAND or not commands.decode(command).has_dataset):
            found.append((context_id, command, dataset))
            command, dataset = b"", b""
    assert (command, dataset) == (b"", b"")
    return found


def test_what_was_agreed_is_known() -> None:
    association, _ = associated(b"")
    assert association.contexts == {(CT, EXPLICIT): 1, (VERIFICATION, IMPLICIT): 5}
    assert association.refused == {(CT, (IMPLICIT,)): 4}
    assert (association.max_pdu, association.window) == (16384, 1)


def test_the_request_says_what_is_wanted() -> None:
    connected = Scripted(agreement())
    Association(connected, PATIENCE, now=lambda: 0.0).ask(REQUEST)
    [(kind, body)] = split(bytes(connected.sent))
    assert kind == Kind.ASSOCIATE_RQ
    assert associate.decode_request(body) == REQUEST


def test_what_was_not_proposed_is_not_taken_for_accepted() -> None:
    contexts = (Context(1, "", IMPLICIT), Context(7, "", EXPLICIT), Context(5, "", IMPLICIT))
    connected = Scripted(agreement(contexts=contexts))
    association = Association(connected, PATIENCE, now=lambda: 0.0)
    association.ask(REQUEST)
    assert association.contexts == {(VERIFICATION, IMPLICIT): 5}


@pytest.mark.parametrize(
    ("wished", "granted", "window"),
    [(8, 4, 4), (8, 100, 8), (8, 0, 8), (0, 4, 4), (0, 0, 0), (8, 1, 1), (8, None, 1), (None, 4, 1)],
)
def test_a_window_is_what_both_allow(wished: int | None, granted: int | None, window: int) -> None:
    asked = Request("A", "B", REQUEST.contexts, 0, "1.2", window=None if wished is None else (wished, 1))
    connected = Scripted(agreement(window=None if granted is None else (granted, 1)))
    association = Association(connected, PATIENCE, now=lambda: 0.0)
    association.ask(asked)
    assert association.window == window


@pytest.mark.parametrize("rejection", [Rejection(1, 1, 7), Rejection(2, 3, 2)])
def test_a_rejection_is_told_and_nothing_more_is_said(rejection: Rejection) -> None:
    connected = Scripted(pdu.encode_rejection(rejection))
    with pytest.raises(RejectedError) as raised:
        Association(connected, PATIENCE, now=lambda: 0.0).ask(REQUEST)
    assert raised.value.rejection == rejection
    assert connected.closed == 1
    assert [kind for kind, _ in split(bytes(connected.sent))] == [Kind.ASSOCIATE_RQ]


@pytest.mark.parametrize(
    ("said", "then", "error", "aborted"),
    [
        (ABORT, SILENT, AbortedError, None),
        (HEADER.pack(Kind.ABORT, 1 << 31), SILENT, AbortedError, None),
        (b"", "closes", LostError, None),
        (b"", BREAKS, LostError, None),
        (agreement()[:-1], "closes", LostError, None),
        (b"", SILENT, TimedOutError, Reason.NOT_SPECIFIED),
        (agreement()[:-1], SILENT, TimedOutError, Reason.NOT_SPECIFIED),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", SILENT, MalformedError, Reason.UNRECOGNIZED_PDU),
        (b"220 mail.example ESMTP\r\n", SILENT, MalformedError, Reason.UNRECOGNIZED_PDU),
        (RELEASE, SILENT, MalformedError, Reason.UNEXPECTED_PDU),
        (answer(1), SILENT, MalformedError, Reason.UNEXPECTED_PDU),
        (HEADER.pack(Kind.ASSOCIATE_AC, LONGEST_AGREEMENT + 1), SILENT, MalformedError, Reason.INVALID_PARAMETER_VALUE),
        (HEADER.pack(Kind.ASSOCIATE_AC, 70) + bytes(70), SILENT, MalformedError, Reason.INVALID_PARAMETER_VALUE),
        (HEADER.pack(Kind.ASSOCIATE_RJ, 2) + bytes(2), SILENT, MalformedError, Reason.INVALID_PARAMETER_VALUE),
    ],
)
def test_what_is_no_answer_to_the_request(
    said: bytes, then: str, error: type[Exception], aborted: Reason | None
) -> None:
    connected = Scripted(said, then=then)
    with pytest.raises(error) as raised:
        Association(connected, PATIENCE, now=lambda: 0.0).ask(REQUEST)
    assert len(str(raised.value).split()) >= 3
    assert connected.closed == 1
    after = split(bytes(connected.sent))[1:]
    assert after == ([] if aborted is None else [(Kind.ABORT, bytes((0, 0, Source.PROVIDER, aborted)))])


def test_single_bytes_do_not_move_the_deadline_of_the_answer() -> None:
    clock = iter(range(10_000))
    connected = Scripted(agreement(), [1] * 1000, SILENT)
    with pytest.raises(TimedOutError):
        Association(connected, PATIENCE, now=lambda: float(next(clock))).ask(REQUEST)
    assert connected.reads <= PATIENCE.acse
    assert connected.closed == 1


def test_a_claimed_length_costs_nothing() -> None:
    connected = Scripted(HEADER.pack(Kind.ASSOCIATE_AC, LONGEST_AGREEMENT) + b"\0\1")
    association = Association(connected, PATIENCE, now=lambda: 0.0)
    with pytest.raises(LostError):
        association.ask(REQUEST)
    assert len(association._link.view) < 1 << 15


@given(
    pieces=st.lists(st.binary(max_size=400), max_size=8),
    max_pdu=st.sampled_from([0, 1, 7, 8, 9, 64, 128, 16384]),
    takes=st.lists(st.integers(1, 300), max_size=20),
    gathers=st.booleans(),
)
def test_a_message_goes_out_whole_however_it_is_cut(
    pieces: list[bytes], max_pdu: int, takes: list[int], gathers: bool
) -> None:
    data = b"".join(pieces)
    if not data:
        return
    pieces = [*pieces, b"\0" * (len(data) % 2)]
    data += b"\0" * (len(data) % 2)
    connected = Gathering(agreement(max_pdu=max_pdu), takes) if gathers else Scripted(agreement(max_pdu=max_pdu))
    association = Association(connected, PATIENCE, now=lambda: 0.0)
    association.ask(REQUEST)
    connected.sent.clear()
    assert association.send(1, STORE, iter(pieces)) == len(data)
    assert sent_messages(bytes(connected.sent), max_pdu) == [(1, commands.encode(STORE), data)]


def test_a_piece_may_be_used_again_once_two_more_were_asked_for() -> None:
    buffers = [bytearray(1000), bytearray(1000)]

    def pieces() -> Iterator[memoryview]:
        for number in range(20):
            buffer = buffers[number % 2]
            buffer[:] = bytes([number]) * 1000
            yield memoryview(buffer)

    association, connected = associated(b"")
    association.send(1, STORE, pieces())
    [(_, _, data)] = sent_messages(bytes(connected.sent), 16384)
    assert data == b"".join(bytes([number]) * 1000 for number in range(20))


def test_more_fragments_than_the_kernel_takes_at_once() -> None:
    connected = Gathering(agreement(max_pdu=128), [])
    association = Association(connected, PATIENCE, now=lambda: 0.0)
    association.ask(REQUEST)
    connected.sent.clear()
    association.send(1, STORE, [bytes(300_000)])
    assert sent_messages(bytes(connected.sent), 128)[0][2] == bytes(300_000)


def test_the_last_fragment_waits_for_the_end_of_the_dataset() -> None:
    def breaks() -> Iterator[bytes]:
        yield b"ab" * 100
        yield b"ab" * 100
        raise ZeroDivisionError

    association, connected = associated(b"")
    with pytest.raises(ZeroDivisionError):
        association.send(1, STORE, breaks())
    assert [body[5] for _, body in split(bytes(connected.sent))] == [COMMAND | LAST, 0]
    association.abort()
    assert split(bytes(connected.sent))[-1] == (Kind.ABORT, bytes(4))


@pytest.mark.parametrize("pieces", [[], [b""], [b"abc"], [b"ab", b"c"]])
def test_a_dataset_that_can_not_be_sent_is_never_ended(pieces: list[bytes]) -> None:
    association, connected = associated(b"")
    with pytest.raises(ValueError, match="can't be sent"):
        association.send(1, STORE, pieces)
    assert all(not body[5] & LAST or body[5] & COMMAND for kind, body in split(bytes(connected.sent)))


def test_a_command_without_dataset_is_sent_alone() -> None:
    association, connected = associated(b"")
    assert association.send(5, commands.echo_request(9)) == 0
    [(context_id, command, data)] = sent_messages(bytes(connected.sent), 16384)
    assert (context_id, commands.decode(command).message_id, data) == (5, 9, b"")


@given(
    sizes=st.lists(st.lists(st.integers(1, 60), max_size=10), min_size=1, max_size=4),
    cuts=st.lists(st.integers(1, 40), max_size=60),
    together=st.booleans(),
)
def test_any_split_of_the_answers_gives_the_same_messages(
    sizes: list[list[int]], cuts: list[int], together: bool
) -> None:
    stream = b""
    for number, each in enumerate(sizes, 1):
        if together:
            encoded = commands.encode(commands.response(commands.store_request(number, CT, f"1.2.3.{number}"), number))
            stream += p_data(*parts(1, encoded, each))
        else:
            stream += answer(number, number, sizes=each)
    association, _ = associated(stream, [len(agreement()), *cuts])
    received = [association.receive() for _ in sizes]
    assert [(each.command.responded_to, each.command.status, each.dataset) for each in received] == [
        (number, number, None) for number in range(1, len(sizes) + 1)
    ]
    with pytest.raises(TimedOutError):
        association.receive()


@given(data=st.binary(max_size=500), sizes=st.lists(st.integers(1, 90), max_size=8))
def test_an_answer_with_a_dataset(data: bytes, sizes: list[int]) -> None:
    command = commands.Command(dict(commands.response(commands.echo_request(3), 0xFF00).elements) | {0x0800: b"\1\0"})
    stream = p_data(*fragments(5, commands.encode(command), command=True, sizes=sizes))
    stream += b"".join(p_data(each) for each in fragments(5, data, command=False, sizes=sizes))
    association, _ = associated(stream)
    message = association.receive()
    assert (message.context_id, message.command.status, message.dataset) == (5, 0xFF00, data)


def test_answers_that_come_before_the_dataset_are_kept_in_order() -> None:
    association, _ = associated(answer(1) + answer(2))
    association.send(1, STORE, [b"abcd"])
    association.send(1, commands.store_request(2, CT, "1.2.3.2"), [b"abcd"])
    assert [association.receive().command.responded_to for _ in range(2)] == [1, 2]


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", Reason.UNRECOGNIZED_PDU),
        (HEADER.pack(9, 4) + bytes(4), Reason.UNRECOGNIZED_PDU),
        (agreement(), Reason.UNEXPECTED_PDU),
        (associate.encode_request(REQUEST), Reason.UNEXPECTED_PDU),
        (pdu.encode_rejection(Rejection(1, 1, 1)), Reason.UNEXPECTED_PDU),
        (RELEASED, Reason.UNEXPECTED_PDU),
        (p_data(), Reason.INVALID_PARAMETER_VALUE),
        (HEADER.pack(Kind.P_DATA, 5) + bytes(5), Reason.INVALID_PARAMETER_VALUE),
        (HEADER.pack(Kind.P_DATA, 6) + FRAGMENT.pack(1, 1, 3), Reason.INVALID_PARAMETER_VALUE),
        (HEADER.pack(Kind.P_DATA, 6) + FRAGMENT.pack(3, 1, 3), Reason.INVALID_PARAMETER_VALUE),
        (HEADER.pack(Kind.P_DATA, 6) + FRAGMENT.pack(0xFFFFFFFF, 1, 0), Reason.INVALID_PARAMETER_VALUE),
        (answer(2, context_id=3), Reason.INVALID_PARAMETER_VALUE),
        (answer(2, context_id=9), Reason.INVALID_PARAMETER_VALUE),
        (p_data(fragment(1, b"data", LAST)), Reason.INVALID_PARAMETER_VALUE),
        (p_data(fragment(1, b"", COMMAND | LAST)), Reason.INVALID_PARAMETER_VALUE),
        (p_data(fragment(1, bytes(LONGEST_COMMAND + 2), COMMAND)), Reason.INVALID_PARAMETER_VALUE),
        (
            p_data(fragment(1, commands.encode(STORE)[:20], COMMAND), fragment(5, commands.encode(STORE)[20:], 3)),
            Reason.INVALID_PARAMETER_VALUE,
        ),
        (p_data(fragment(1, commands.encode(STORE), 3), fragment(5, b"data", LAST)), Reason.INVALID_PARAMETER_VALUE),
        (p_data(fragment(1, commands.encode(STORE), 3)) + answer(2), Reason.INVALID_PARAMETER_VALUE),
        (
            p_data(fragment(1, commands.encode(STORE), 3), fragment(1, bytes(LONGEST_DATASET + 2), 0)),
            Reason.INVALID_PARAMETER_VALUE,
        ),
    ],
)
def test_what_breaks_the_protocol_comes_after_the_answers_before_it(stream: bytes, reason: Reason) -> None:
    association, connected = associated(answer(1) + stream)
    assert association.receive().command.responded_to == 1
    with pytest.raises(MalformedError) as raised:
        association.receive()
    assert raised.value.reason is reason
    assert list(association.come()) == []
    association.abort(Source.PROVIDER, raised.value.reason)
    assert split(bytes(connected.sent)) == [(Kind.ABORT, bytes((0, 0, Source.PROVIDER, reason)))]
    assert connected.closed == 1


@given(st.binary(max_size=300))
def test_any_bytes_end_in_a_known_way(data: bytes) -> None:
    association, _ = associated(data, then="closes")
    with pytest.raises((AbortedError, ReleasedError, LostError, MalformedError)) as raised:
        deque(iter(association.receive, None))
    assert len(str(raised.value).split()) >= 3
    association.abort()


@given(st.data())
def test_damaged_answers_end_in_a_known_way(data: st.DataObject) -> None:
    stream = bytearray(agreement() + answer(1) + answer(2, sizes=[10, 20]) + RELEASED)
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    connected = Scripted(bytes(stream[: data.draw(st.integers(0, len(stream)))]))
    association = Association(connected, PATIENCE, now=lambda: 0.0)
    try:
        association.ask(REQUEST)
        while True:
            association.receive()
    except (RejectedError, AbortedError, ReleasedError, LostError, MalformedError):
        association.abort()
    assert connected.closed >= 1


@pytest.mark.parametrize(
    ("said", "then", "error"),
    [
        (ABORT, SILENT, AbortedError),
        (RELEASE, SILENT, ReleasedError),
        (b"", "closes", LostError),
        (b"", BREAKS, LostError),
        (b"", SILENT, TimedOutError),
        (answer(2)[:-1], SILENT, TimedOutError),
    ],
)
def test_the_end_comes_after_the_answers_before_it(said: bytes, then: str, error: type[Exception]) -> None:
    association, _ = associated(answer(1) + said, then=then)
    assert association.receive().command.responded_to == 1
    with pytest.raises(error):
        association.receive()


class Closing(Scripted):
    """One whose peer has gone: what is sent to it breaks."""

    def sendall(self, data: bytes, /) -> None:
        if data[:1] != b"\1":
            raise BrokenPipeError
        super().sendall(data)


@pytest.mark.parametrize(
    ("said", "error", "words"),
    [(ABORT, AbortedError, "aborted"), (RELEASE, AbortedError, "released"), (b"", LostError, "broke")],
)
def test_what_a_peer_said_before_it_went_away_is_heard(said: bytes, error: type[Exception], words: str) -> None:
    association = Association(Closing(agreement() + answer(1) + said), PATIENCE, now=lambda: 0.0)
    association.ask(REQUEST)
    with pytest.raises(error, match=words):
        association.send(1, STORE, [b"abcd"])
    assert [each.command.responded_to for each in association.come()] == [1]


def test_a_peer_that_goes_on_talking_is_not_heard_for_ever() -> None:
    clock = iter(number / 100 for number in range(100_000))
    chatter = b"".join(answer(1) for _ in range(2000))
    connected = Closing(agreement() + chatter, [len(agreement())] + [1] * len(chatter))
    association = Association(connected, PATIENCE, now=lambda: next(clock))
    association.ask(REQUEST)
    with pytest.raises(LostError):
        association.send(1, STORE, [b"abcd"])
    assert connected.reads < 100


def test_a_release_is_answered() -> None:
    association, connected = associated(answer(1) + RELEASED)
    association.receive()
    association.release()
    assert bytes(connected.sent) == RELEASE
    assert connected.closed == 1


def test_a_release_collision_is_answered_first_and_then_waits() -> None:
    association, connected = associated(RELEASE + RELEASED)
    association.release()
    assert [kind for kind, _ in split(bytes(connected.sent))] == [Kind.RELEASE_RQ, Kind.RELEASE_RP]
    assert connected.closed == 1


@pytest.mark.parametrize("said", [b"", ABORT, answer(7) + RELEASED, b"HTTP/1.1 400", RELEASE])
@pytest.mark.parametrize("then", [SILENT, BREAKS, "closes"])
def test_a_release_ends_whatever_comes(said: bytes, then: str) -> None:
    association, connected = associated(said, then=then)
    association.release()
    assert split(bytes(connected.sent))[0][0] == Kind.RELEASE_RQ
    assert connected.closed == 1


def test_a_peer_that_talks_on_does_not_hold_up_a_release() -> None:
    clock = iter(range(100_000))
    chatter = b"".join(answer(1) for _ in range(200))
    connected = Scripted(agreement() + chatter, [len(agreement())] + [1] * len(chatter))
    association = Association(connected, PATIENCE, now=lambda: float(next(clock)))
    association.ask(REQUEST)
    connected.reads = 0
    association.release()
    assert connected.reads <= PATIENCE.acse
    assert connected.closed == 1


def test_a_peer_that_releases_gets_its_answer() -> None:
    association, connected = associated(RELEASE)
    with pytest.raises(ReleasedError):
        association.receive()
    association.close()
    assert bytes(connected.sent) == RELEASED
    assert connected.closed == 1


def test_our_requestor_and_our_acceptor_understand_each_other() -> None:
    near, far = connected_pair()
    recorder = Recorder()
    acceptor = threading.Thread(target=Acceptor(far, PEER, recorder, OPTIONS).run)
    acceptor.start()
    association = Association(near, PATIENCE)
    association.ask(REQUEST)
    data = bytes(range(256)) * 9000
    for number in (1, 2):
        association.send(1, commands.store_request(number, CT, f"1.2.3.{number}"), [data])
        assert association.receive().command.responded_to == number
    association.release()
    acceptor.join(30)
    assert [(call[0], call[3]) for call in recorder.calls] == [("stored", data)] * 2


def test_over_tls(tmp_path: Path) -> None:
    authority = Authority(tmp_path)
    issued = authority.issue("archive")
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(issued.certificate, issued.key)
    client = ssl.create_default_context(cafile=authority.certificate)
    near, far = connected_pair()
    recorder = Recorder()

    def accept() -> None:
        Acceptor(server.wrap_socket(far, server_side=True), PEER, recorder, OPTIONS).run()

    acceptor = threading.Thread(target=accept)
    acceptor.start()
    association = Association(client.wrap_socket(near, server_hostname="localhost"), PATIENCE)
    association.ask(REQUEST)
    data = bytes(range(256)) * 9000
    association.send(1, STORE, [data[:1001], data[1001:]])
    assert association.receive().command.status == 0
    association.release()
    acceptor.join(30)
    assert [(call[0], call[3]) for call in recorder.calls] == [("stored", data)]


@pytest.mark.parametrize("reading", [True, False])
def test_another_thread_can_stop_it(reading: bool) -> None:
    near, far = connected_pair()
    association = Association(near, PATIENCE)
    far.sendall(agreement())
    association.ask(REQUEST)
    raised: list[BaseException] = []
    begun = threading.Event()

    def endless() -> Iterator[bytes]:
        while True:
            begun.set()
            yield bytes(1 << 20)

    def work() -> None:
        try:
            if reading:
                begun.set()
                association.receive()
            else:
                association.send(1, STORE, endless())
        except StoppedError as error:
            raised.append(error)
        association.abort()

    thread = threading.Thread(target=work)
    thread.start()
    begun.wait(30)
    association.stop()
    thread.join(30)
    assert len(raised) == 1
    far.close()


def test_a_peer_that_takes_nothing_is_given_up() -> None:
    near, far = connected_pair()
    association = Association(near, Patience(acse=30, response=30, network=0.2))
    far.sendall(agreement())
    association.ask(REQUEST)
    with pytest.raises(TimedOutError, match="did not take"):
        association.send(1, STORE, (bytes(1 << 20) for _ in range(1000)))
    association.abort()
    far.close()


def test_a_peer_that_takes_nothing_at_first_is_waited_for() -> None:
    near, far = connected_pair()
    association = Association(near, PATIENCE)
    far.sendall(agreement())
    association.ask(REQUEST)
    sending = threading.Thread(target=association.send, args=(1, STORE, [bytes(4 << 20)]))
    sending.start()
    received = bytearray()
    while len(received) < 4 << 20:
        received += far.recv(1 << 16)
    sending.join(30)
    assert not sending.is_alive()
    association.abort()
    far.close()
