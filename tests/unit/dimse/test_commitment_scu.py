import pytest

from libs.dimse import associate, commitment, pdu
from libs.dimse import command as commands
from libs.dimse.command import Command
from libs.dimse.commitment import IMPLICIT, Failure, Reference, Report
from libs.dimse.commitment_scu import Asking, offered
from libs.dimse.connection import LostError, TimedOutError
from libs.dimse.negotiation import Agreement, Context, RefusedContext, Request
from libs.dimse.pdu import FRAGMENT, Kind, MalformedError
from libs.dimse.requestor import Association, Patience, ReleasedError
from tests.support.association import CLOSES, CT, RELEASE, SILENT, Scripted, fragments, p_data, split

PATIENCE = Patience(acse=30, response=60, network=20)
NAMED = (Reference(CT, "1.2.3.4"), Reference(CT, "1.2.3.5"))
REPORT = Report("1.2.9", NAMED[:1], (Failure(CT, "1.2.3.5", 0x0112),))


def message(command: Command, dataset: bytes = b"", context_id: int = 5) -> bytes:
    parts = fragments(context_id, commands.encode(command), command=True)
    return p_data(*parts) + (p_data(*fragments(context_id, dataset, command=False, sizes=(10, 20))) if dataset else b"")


def report(number: int, said: Report = REPORT, event: int = 2) -> bytes:
    command = commands.event_report_request(number, commitment.SOP_CLASS, commitment.SOP_INSTANCE, event)
    return message(command, commitment.encode_report(said, IMPLICIT))


def taken(number: int, status: int = 0) -> bytes:
    return message(commands.response(commitment.action_request(number), status))


def associated(data: bytes, then: str = CLOSES, *, refused: bool = False) -> tuple[Association, Scripted]:
    """Give an association on which the peer takes storage commitment, and then says these bytes."""
    answer = RefusedContext(5, 3) if refused else Context(5, "", IMPLICIT)
    agreed = associate.encode_agreement(Agreement("ARCHIVE", "KIVUKO", (answer,), 16384, "1.2.3.5"))
    connected = Scripted(agreed + data, then=then)
    association = Association(connected, PATIENCE, now=lambda: 0.0)
    association.ask(Request("ARCHIVE", "KIVUKO", (commitment.proposed(5),), 1 << 16, "1.2.3.4"))
    connected.sent.clear()
    return association, connected


def answers(connected: Scripted) -> list[Command]:
    bodies = [body for kind, body in split(bytes(connected.sent)) if kind == Kind.P_DATA]
    found = [commands.decode(body[FRAGMENT.size :]) for body in bodies if body[5] & pdu.COMMAND]
    return [each for each in found if each.field & commands.RESPONSE]


def test_a_request_is_sent_and_its_report_taken_and_answered() -> None:
    association, connected = associated(taken(1) + report(9))
    asking = Asking(association)
    assert asking.ask(1, "1.2.9", NAMED).status == 0
    request, dataset = (body for _, body in split(bytes(connected.sent)))
    assert commands.decode(request[FRAGMENT.size :]) == commitment.action_request(1)
    assert dataset[FRAGMENT.size :] == commitment.encode_request("1.2.9", NAMED, IMPLICIT)
    found = asking.report(30)
    assert found is not None
    assert found.report == REPORT
    assert answers(connected) == []
    asking.answer(found, 0)
    (answer,) = answers(connected)
    assert (answer.field, answer.responded_to, answer.status, answer.event_type) == (0x8100, 9, 0, 2)


def test_a_report_before_the_response_is_not_lost() -> None:
    association, _ = associated(report(9) + taken(1), SILENT)
    asking = Asking(association)
    assert asking.ask(1, "1.2.9", NAMED).status == 0
    found = asking.report(30)
    assert found is not None
    assert found.report == REPORT
    assert asking.report(30) is None


def test_a_refusal_is_given_as_it_came() -> None:
    association, _ = associated(taken(1, 0x0110))
    assert Asking(association).ask(1, "1.2.9", NAMED).status == 0x0110


def test_where_nothing_is_reported_the_association_stands() -> None:
    association, connected = associated(taken(1), SILENT)
    asking = Asking(association)
    asking.ask(1, "1.2.9", NAMED)
    assert asking.report(30) is None
    assert not connected.closed
    association.release()
    assert split(bytes(connected.sent))[-1][0] == Kind.RELEASE_RQ


@pytest.mark.parametrize(
    ("wrong", "status"),
    [
        (report(7, event=3), 0x0113),
        (message(commands.event_report_request(7, "1.2", commitment.SOP_INSTANCE, 1), b"ab"), 0x0118),
        (message(commands.event_report_request(7, commitment.SOP_CLASS, commitment.SOP_INSTANCE, 1), b"ab"), 0x0115),
        (message(commands.echo_request(7)), 0x0211),
    ],
)
def test_what_is_no_report_is_answered_with_a_failure_and_waited_on(wrong: bytes, status: int) -> None:
    association, connected = associated(wrong + report(9))
    found = Asking(association).report(30)
    assert found is not None
    assert found.report == REPORT
    (answer,) = answers(connected)
    assert (answer.responded_to, answer.status) == (7, status)


@pytest.mark.parametrize(
    ("said", "raised"),
    [
        (b"", LostError),
        (RELEASE, ReleasedError),
        (taken(2), MalformedError),
        (message(commands.response(commands.echo_request(1), 0)), MalformedError),
        (message(commands.echo_request(7)) * 100, MalformedError),
    ],
)
def test_what_is_no_answer_ends_it(said: bytes, raised: type[Exception]) -> None:
    association, _ = associated(said)
    with pytest.raises(raised):
        Asking(association).ask(1, "1.2.9", NAMED)


def test_a_peer_that_reports_without_end_is_told_to_come_again() -> None:
    association, connected = associated(b"".join(map(report, range(20))) + taken(1), SILENT)
    asking = Asking(association)
    asking.ask(1, "1.2.9", NAMED)
    assert {answer.status for answer in answers(connected)} == {0x0213}
    assert len([asking.report(1) for _ in range(16)]) == 16
    assert asking.report(1) is None


@pytest.mark.parametrize("missing", [1, 20, 60])
def test_a_report_that_stays_half_is_none(missing: int) -> None:
    association, _ = associated(report(9)[:-missing], SILENT)
    with pytest.raises(TimedOutError):
        Asking(association).report(30)


def test_a_response_to_nothing_ends_it() -> None:
    association, _ = associated(taken(1))
    with pytest.raises(MalformedError):
        Asking(association).report(30)


def test_time_is_counted_over_all_that_comes() -> None:
    ticks = map(float, range(100))
    association, connected = associated(message(commands.echo_request(7)) * 20, SILENT)
    assert Asking(association, ticks.__next__).report(5) is None
    assert len(answers(connected)) == 4


def test_nothing_can_be_asked_where_it_was_not_taken() -> None:
    association, _ = associated(b"", refused=True)
    assert not offered(association)
    with pytest.raises(KeyError):
        Asking(association)
