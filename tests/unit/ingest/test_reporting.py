"""A report as it comes to a receiver: what is asked of the supervisor, and what is answered."""

import socket
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.dimse import command as commands
from libs.dimse import commitment
from libs.dimse.commitment import IMPLICIT, Failure, Reference, Report
from services.ingest.channel import Channel, ChannelClosedError
from services.ingest.reporting import Reporting
from services.ingest.wire import Frames, Message, frame

pytestmark = pytest.mark.unit
CT = "1.2.840.10008.5.1.4.1.1.2"
REPORT = Report("1.2.9", (Reference(CT, "1.2.3"),), (Failure(CT, "1.2.4", 0x0110),))
REQUEST = commands.event_report_request(7, commitment.SOP_CLASS, commitment.SOP_INSTANCE, 2)


class Supervisor:
    """The other end of the line: answers each report with a status, and keeps it."""

    def __init__(self) -> None:
        self.heard: list[Message] = []
        self.status = 0
        near, self._far = socket.socketpair()
        self.channel = Channel(near)
        self._threads = [threading.Thread(target=self._listen), threading.Thread(target=self._take)]
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        self._far.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(30)
            assert not thread.is_alive()
        self._far.close()

    def _listen(self) -> None:
        frames = Frames()
        while data := self._far.recv(1 << 16):
            for message in frames.feed(data):
                self.heard.append(message)
                answer: dict[str, Any] = {"kind": "answer", "call": message["call"], "status": self.status}
                self._far.sendall(frame(answer))

    def _take(self) -> None:
        for _ in self.channel.messages():
            pass


@pytest.fixture(scope="module")
def supervisor() -> Iterator[Supervisor]:
    made = Supervisor()
    yield made
    made.close()


def answer(supervisor: Supervisor, data: bytes, size: int = 1 << 16, request: commands.Command = REQUEST) -> int:
    reporting = Reporting(supervisor.channel, "A1", IMPLICIT, request)
    for start in range(0, len(data), size):
        reporting.write(memoryview(data)[start : start + size])
    response = reporting.finish()
    assert response.field == commands.N_EVENT_REPORT_RQ | commands.RESPONSE
    assert response.responded_to == 7
    return response.status


@pytest.mark.parametrize("status", [0, 0x0110])
def test_the_answer_is_the_supervisors(supervisor: Supervisor, status: int) -> None:
    supervisor.status = status
    assert answer(supervisor, commitment.encode_report(REPORT, IMPLICIT), 10) == status
    message = supervisor.heard[-1]
    assert (message["kind"], message["association"], message["objection"]) == ("report", "A1", None)
    assert message["transaction_uid"] == "1.2.9"
    assert message["committed"] == [[CT, "1.2.3"]]
    assert message["failed"] == [[CT, "1.2.4", 0x0110]]


def test_what_is_refused_is_told_with_its_status_and_nothing_of_it(supervisor: Supervisor) -> None:
    other = commands.event_report_request(7, commitment.SOP_CLASS, commitment.SOP_INSTANCE, 9)
    for data, request, status in (
        (b"no report", REQUEST, commands.INVALID_ARGUMENT_VALUE),
        (b"", REQUEST, commands.INVALID_ARGUMENT_VALUE),
        (bytes(commitment.LONGEST_REPORT + 1), REQUEST, commands.RESOURCE_LIMITATION),
        (commitment.encode_report(REPORT, IMPLICIT), other, commands.NO_SUCH_EVENT_TYPE),
    ):
        answer(supervisor, data, request=request)
        message = supervisor.heard[-1]
        assert message["objection"][0] == status
        assert message.keys() == {"kind", "association", "call", "objection"}


@given(data=st.binary(max_size=200))
def test_any_bytes_get_an_answer(supervisor: Supervisor, data: bytes) -> None:
    supervisor.status = 0x0115
    assert answer(supervisor, data, 7) == 0x0115


def test_the_longest_report_passes_the_line(supervisor: Supervisor) -> None:
    longest = [f"{number:05d}.{'7' * 58}" for number in range(10_000, 10_000 + commitment.MOST_INSTANCES)]
    assert {len(uid) for uid in longest} == {64}
    report = Report(longest[0], (), tuple(Failure(uid, uid, 0xFFFF) for uid in longest))
    supervisor.status = 0
    assert answer(supervisor, commitment.encode_report(report, IMPLICIT)) == 0
    assert len(supervisor.heard[-1]["failed"]) == commitment.MOST_INSTANCES


def test_without_a_supervisor_nothing_is_answered() -> None:
    gone = Supervisor()
    gone.close()
    with pytest.raises(ChannelClosedError):
        answer(gone, commitment.encode_report(REPORT, IMPLICIT))
