from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.dimse import associate, negotiation, pdu
from libs.dimse import command as commands
from libs.dimse.acceptor import LONGEST_COMMAND, LONGEST_REQUEST, Association
from libs.dimse.negotiation import Context, RefusedContext
from libs.dimse.pdu import FRAGMENT, HEADER, LAST, Kind, Reason, Rejection
from libs.dimse.provider import Declined, Ending, Reply, Sink
from tests.support.association import (
    ABORT,
    BREAKS,
    CT,
    EXPLICIT,
    OPTIONS,
    PEER,
    RELEASE,
    REQUEST,
    SILENT,
    Recorder,
    Scripted,
    converse,
    echo,
    fragment,
    fragments,
    p_data,
    responses,
    split,
    store,
)

RQ = associate.encode_request(REQUEST)
STORE_COMMAND = commands.encode(commands.store_request(7, CT, "1.2.3.7"))
ECHO_COMMAND = commands.encode(commands.echo_request(8))


def aborted(sent: bytes) -> tuple[int, int]:
    kind, body = split(sent)[-1]
    assert kind == Kind.ABORT
    return body[2], body[3]


def test_a_store_reaches_the_sink_and_is_answered() -> None:
    association, recorder, sent = converse(RQ + store(7, b"ab" * 500) + RELEASE)
    assert association.ending is Ending.RELEASED
    [(how, context_id, _, data)] = recorder.calls
    assert (how, context_id, data) == ("stored", 1, b"ab" * 500)
    [response] = responses(sent)
    assert (response.field, response.responded_to, response.status) == (0x8001, 7, 0)
    assert (response.sop_class_uid, response.sop_instance_uid) == (CT, "1.2.3.7")
    assert [kind for kind, _ in split(sent)] == [Kind.ASSOCIATE_AC, Kind.P_DATA, Kind.RELEASE_RP]


def test_the_answer_names_the_contexts_and_what_we_offer() -> None:
    _, _, sent = converse(RQ + RELEASE)
    agreed = associate.decode_agreement(split(sent)[0][1])
    assert agreed.contexts == (Context(1, "", EXPLICIT), Context(3, "", "1.2.840.10008.1.2"), RefusedContext(5, 4))
    assert agreed.max_pdu == OPTIONS.max_pdu
    assert (agreed.implementation_class_uid, agreed.implementation_version) == OPTIONS.implementation
    assert (agreed.called_aet, agreed.calling_aet) == ("KIVUKO", "MODALITY")


messages = st.lists(
    st.one_of(
        st.tuples(st.just("store"), st.binary(max_size=600), st.lists(st.integers(1, 90), max_size=8)),
        st.tuples(st.just("echo"), st.just(b""), st.lists(st.integers(1, 90), max_size=8)),
    ),
    max_size=4,
)


@given(
    messages=messages, cuts=st.lists(st.integers(1, 700), max_size=40), together=st.lists(st.booleans(), max_size=30)
)
def test_any_split_of_a_stream_gives_the_same_calls(
    messages: list[tuple[str, bytes, list[int]]], cuts: list[int], together: list[bool]
) -> None:
    pieces: list[bytes] = []
    expected: list[tuple[object, ...]] = []
    for number, (kind, data, sizes) in enumerate(messages):
        if kind == "store":
            command = commands.store_request(number, CT, f"1.2.{number}")
            pieces += fragments(1, commands.encode(command), command=True, sizes=sizes)
            pieces += fragments(1, data, command=False, sizes=sizes)
            expected.append(("stored", 1, data))
        else:
            pieces += fragments(3, commands.encode(commands.echo_request(number)), command=True, sizes=sizes)
            expected.append(("answer", 3))
    pdus: list[list[bytes]] = []
    for index, piece in enumerate(pieces):
        if pdus and index < len(together) and together[index]:
            pdus[-1].append(piece)
        else:
            pdus.append([piece])
    stream = RQ + b"".join(p_data(*each) for each in pdus) + RELEASE
    association, recorder, sent = converse(stream, cuts)
    assert association.ending is Ending.RELEASED
    assert [(call[0], call[1], *call[3:]) for call in recorder.calls] == expected
    assert [each.responded_to for each in responses(sent)] == list(range(len(messages)))


@given(st.binary(max_size=300), st.booleans())
def test_any_bytes_end_the_association_in_a_known_way(data: bytes, accepted: bool) -> None:
    association, _, _ = converse((RQ if accepted else b"") + data)
    assert association.ending is not None
    assert association.ending is not Ending.FAILED
    assert (association.problem == "") == (association.ending is Ending.RELEASED)


@given(st.data())
def test_a_damaged_stream_ends_in_a_known_way(data: st.DataObject) -> None:
    stream = bytearray(RQ + store(1, b"x" * 40) + echo(2) + RELEASE)
    for _ in range(data.draw(st.integers(1, 4))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    association, _, _ = converse(bytes(stream[: data.draw(st.integers(0, len(stream)))]))
    assert association.ending is not Ending.FAILED


@pytest.mark.parametrize(
    ("stream", "reason"),
    [
        (HEADER.pack(9, 4) + b"\0\0\0\0", Reason.UNRECOGNIZED_PDU),
        (RQ, Reason.UNEXPECTED_PDU),
        (pdu.encode_rejection(Rejection(1, 1, 1)), Reason.UNEXPECTED_PDU),
        (pdu.encode_release_rp(), Reason.UNEXPECTED_PDU),
        (HEADER.pack(Kind.RELEASE_RQ, 5) + b"\0\0\0\0\0", Reason.INVALID_PARAMETER_VALUE),
        (p_data(), Reason.INVALID_PARAMETER_VALUE),
        (HEADER.pack(Kind.P_DATA, 5) + b"\0\0\0\0\0", Reason.INVALID_PARAMETER_VALUE),
        (HEADER.pack(Kind.P_DATA, 6) + FRAGMENT.pack(1, 1, 3), Reason.INVALID_PARAMETER_VALUE),
        (HEADER.pack(Kind.P_DATA, 6) + FRAGMENT.pack(3, 1, 3), Reason.INVALID_PARAMETER_VALUE),
        (HEADER.pack(Kind.P_DATA, 6) + FRAGMENT.pack(0xFFFFFFFF, 1, 0), Reason.INVALID_PARAMETER_VALUE),
        (p_data(fragment(7, ECHO_COMMAND, 3)), Reason.INVALID_PARAMETER_VALUE),
        (p_data(fragment(5, ECHO_COMMAND, 3)), Reason.INVALID_PARAMETER_VALUE),
        (p_data(fragment(1, b"data", LAST)), Reason.UNEXPECTED_PARAMETER),
        (p_data(fragment(1, STORE_COMMAND, 3), fragment(3, b"data", LAST)), Reason.UNEXPECTED_PARAMETER),
        (p_data(fragment(1, STORE_COMMAND, 3), fragment(1, STORE_COMMAND, 3)), Reason.UNEXPECTED_PARAMETER),
        (p_data(fragment(1, STORE_COMMAND[:20], 1), fragment(3, STORE_COMMAND[20:], 3)), Reason.UNEXPECTED_PARAMETER),
        (p_data(fragment(1, STORE_COMMAND[:20], 1), fragment(1, b"data", LAST)), Reason.UNEXPECTED_PARAMETER),
        (p_data(fragment(1, STORE_COMMAND[:-1], 3)), Reason.INVALID_PARAMETER_VALUE),
        (p_data(fragment(1, b"", 3)), Reason.INVALID_PARAMETER_VALUE),
        (p_data(fragment(1, bytes(LONGEST_COMMAND + 2), 1)), Reason.INVALID_PARAMETER_VALUE),
        (
            p_data(fragment(3, commands.encode(commands.response(commands.echo_request(1), 0)), 3)),
            Reason.UNEXPECTED_PARAMETER,
        ),
        (p_data(fragment(1, STORE_COMMAND, 3), fragment(1, b"half", 0)) + RELEASE, Reason.UNEXPECTED_PDU),
        (p_data(fragment(1, STORE_COMMAND[:8], 1)) + RELEASE, Reason.UNEXPECTED_PDU),
    ],
)
def test_what_breaks_the_protocol_is_aborted_with_its_reason(stream: bytes, reason: Reason) -> None:
    association, recorder, sent = converse(RQ + echo(1) + stream)
    assert association.ending is Ending.PROTOCOL_ERROR
    assert association.problem
    assert aborted(sent) == (2, reason)
    assert not [call for call in recorder.calls if call[0] == "stored"]


@pytest.mark.parametrize(
    "stream",
    [
        echo(1),
        RELEASE,
        pdu.encode_release_rp(),
        HEADER.pack(9, 0),
        b"GET / HTTP/1.0\r\n\r\n",
        HEADER.pack(Kind.ASSOCIATE_RQ, LONGEST_REQUEST + 1),
        HEADER.pack(Kind.ASSOCIATE_RQ, 67) + bytes(67),
        RQ[:2] + (len(RQ) - 5).to_bytes(4, "big") + RQ[6:] + b"\x20",
    ],
)
def test_what_is_no_request_is_aborted_before_anybody_is_asked(stream: bytes) -> None:
    association, recorder, sent = converse(stream)
    assert association.ending is Ending.PROTOCOL_ERROR
    assert split(sent) == [(Kind.ABORT, bytes(4))]
    assert not recorder.requests


def test_a_claimed_length_costs_nothing() -> None:
    connected = Scripted(HEADER.pack(Kind.ASSOCIATE_RQ, LONGEST_REQUEST) + b"\0\1")
    association = Association(connected, PEER, Recorder(), OPTIONS, now=lambda: 0.0)
    assert association.run() is Ending.LOST
    assert len(association._link.view) < 1 << 15


def test_a_pdu_longer_than_offered_is_carried_in_the_same_buffer() -> None:
    data = bytes(range(256)) * 6000
    association, recorder, _ = converse(RQ + store(1, data) + RELEASE)
    assert len(data) > 10 * OPTIONS.max_pdu
    assert association.ending is Ending.RELEASED
    assert recorder.calls[0][3] == data
    assert len(association._link.view) == 1 << 18


@pytest.mark.parametrize("rejection", [Rejection(1, 1, 3), Rejection(2, 3, 2)])
def test_a_rejection_is_sent_and_nobody_hears_of_an_end(rejection: Rejection) -> None:
    recorder = Recorder(rejection)
    association, _, sent = converse(RQ, recorder=recorder)
    assert association.ending is Ending.REJECTED
    [(kind, body)] = split(sent)
    assert kind == Kind.ASSOCIATE_RJ
    assert pdu.decode_rejection(body) == rejection


def test_another_version_of_the_protocol_is_rejected() -> None:
    association, recorder, sent = converse(RQ[:6] + b"\0\2" + RQ[8:])
    assert association.ending is Ending.REJECTED
    assert pdu.decode_rejection(split(sent)[0][1]) == Rejection(1, 2, 2)
    assert not recorder.requests


def test_another_application_context_is_rejected() -> None:
    association, _, sent = converse(RQ.replace(b"1.2.840.10008.3.1.1.1", b"1.2.840.10008.3.1.1.2"))
    assert association.ending is Ending.REJECTED
    assert pdu.decode_rejection(split(sent)[0][1]) == Rejection(1, 1, 2)


def test_an_abort_ends_without_an_answer() -> None:
    association, recorder, sent = converse(RQ + store(1, b"whole!") + store(2, b"half!!")[:-3] + ABORT[:0])
    assert association.ending is Ending.LOST
    assert [call[0] for call in recorder.calls] == ["stored", "abandoned"]
    association, recorder, sent = converse(RQ + store(1, b"whole!") + ABORT)
    assert association.ending is Ending.ABORTED
    assert split(sent)[-1][0] == Kind.P_DATA


def test_an_abort_of_any_length_is_heard() -> None:
    association, _, _ = converse(RQ + HEADER.pack(Kind.ABORT, 4))
    assert association.ending is Ending.ABORTED
    association, _, _ = converse(ABORT)
    assert association.ending is Ending.ABORTED


def test_silence_ends_the_association_with_an_abort() -> None:
    association, recorder, sent = converse(RQ + store(1, b"whole!") + store(2, b"half!!")[:-3], then=SILENT)
    assert association.ending is Ending.TIMED_OUT
    assert aborted(sent) == (2, 0)
    assert [call[0] for call in recorder.calls] == ["stored", "abandoned"]


def test_silence_before_a_request_ends_the_connection_without_a_word() -> None:
    association, recorder, sent = converse(RQ[:30], then=SILENT)
    assert association.ending is Ending.TIMED_OUT
    assert sent == b""
    assert not recorder.requests


def test_the_request_has_a_deadline_that_single_bytes_do_not_move() -> None:
    clock = iter(range(1000))
    connected = Scripted(RQ, [1] * len(RQ))
    association = Association(connected, PEER, Recorder(), OPTIONS, now=lambda: float(next(clock)))
    assert association.run() is Ending.TIMED_OUT
    assert connected.reads <= OPTIONS.artim_timeout


def test_a_peer_that_never_closes_is_left_after_the_deadline() -> None:
    clock = iter(range(1000))
    chatter = echo(1) * 3000
    connected = Scripted(RQ + RELEASE + chatter, [len(RQ) + len(RELEASE)] + [1] * len(chatter))
    association = Association(connected, PEER, Recorder(), OPTIONS, now=lambda: float(next(clock)))
    assert association.run() is Ending.RELEASED
    assert connected.reads <= OPTIONS.artim_timeout + 2
    assert connected.reset
    assert [kind for kind, _ in split(bytes(connected.sent))] == [Kind.ASSOCIATE_AC, Kind.RELEASE_RP]


def test_a_peer_that_closes_in_time_is_not_reset() -> None:
    connected = Scripted(RQ + RELEASE)
    assert Association(connected, PEER, Recorder(), OPTIONS, now=lambda: 0.0).run() is Ending.RELEASED
    assert not connected.reset


def test_what_comes_after_a_release_is_ignored() -> None:
    association, recorder, sent = converse(RQ + RELEASE + RELEASE + pdu.encode_release_rp() + store(1, b"late") + ABORT)
    assert association.ending is Ending.RELEASED
    assert not recorder.calls
    assert [kind for kind, _ in split(sent)] == [Kind.ASSOCIATE_AC, Kind.RELEASE_RP]


def test_a_broken_connection_is_lost() -> None:
    association, _, sent = converse(RQ + echo(1), then=BREAKS)
    assert association.ending is Ending.LOST
    assert split(sent)[-1][0] == Kind.P_DATA


def test_an_abort_from_our_side_is_sent_in_the_users_name() -> None:
    class Stopping(Recorder):
        def answer(self, context: Context, command: commands.Command) -> Iterable[commands.Command | Reply]:
            yield from super().answer(context, command)
            association.abort()

    recorder = Stopping()
    connected = Scripted(RQ + echo(1) + echo(2), [len(RQ), len(echo(1))])
    association = Association(connected, PEER, recorder, OPTIONS, now=lambda: 0.0)
    assert association.run() is Ending.STOPPED
    assert recorder.endings == [Ending.STOPPED]
    assert [each.responded_to for each in responses(bytes(connected.sent))] == [1]
    assert aborted(bytes(connected.sent)) == (0, 0)


def test_a_defect_of_the_provider_is_raised_and_the_peer_aborted() -> None:
    class Broken(Recorder):
        def answer(self, context: Context, command: commands.Command) -> Iterable[commands.Command]:
            raise ZeroDivisionError(context, command)

    recorder = Broken()
    connected = Scripted(RQ + echo(1))
    association = Association(connected, PEER, recorder, OPTIONS, now=lambda: 0.0)
    with pytest.raises(ZeroDivisionError):
        association.run()
    assert recorder.endings == [Ending.FAILED]
    assert aborted(bytes(connected.sent)) == (0, 0)
    assert connected.closed == 1


def test_a_cancel_finds_nothing_to_cancel() -> None:
    cancel = commands.Command({0x0100: b"\xff\x0f", 0x0120: b"\1\0", 0x0800: b"\1\1"})
    association, recorder, sent = converse(RQ + p_data(fragment(3, commands.encode(cancel), 3)) + echo(2) + RELEASE)
    assert association.ending is Ending.RELEASED
    assert [call[0] for call in recorder.calls] == ["answer"]
    assert [each.responded_to for each in responses(sent)] == [2]


def test_a_declined_request_is_read_past_and_answered() -> None:
    class Declining(Recorder):
        def receive(self, context: Context, command: commands.Command) -> Sink:
            assert context.id == 1
            return Declined(command)

    connected = Scripted(RQ + store(4, b"unwanted") + echo(5) + RELEASE)
    assert Association(connected, PEER, Declining(), OPTIONS, now=lambda: 0.0).run() is Ending.RELEASED
    assert [(each.responded_to, each.status) for each in responses(bytes(connected.sent))] == [(4, 0x0211), (5, 0)]


def test_answers_keep_to_the_peers_longest_pdu() -> None:
    small = associate.encode_request(negotiation.Request("K", "M", REQUEST.contexts, 64, "1.2"))
    _, _, sent = converse(small + store(1, b"ab") + RELEASE)
    parts = [body for kind, body in split(sent) if kind == Kind.P_DATA]
    assert len(parts) > 1
    assert max(len(body) for body in parts) <= 64
    whole = commands.decode(b"".join(body[FRAGMENT.size :] for body in parts))
    assert whole.status == 0
    assert [body[5] & LAST for body in parts] == [0] * (len(parts) - 1) + [LAST]
