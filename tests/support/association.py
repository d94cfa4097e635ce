"""An association whose peer is a sequence of bytes: no thread, no socket, thousands of cases a second."""

import socket
import struct
from collections.abc import Iterable, Sequence
from typing import Final

from libs.dimse import command as commands
from libs.dimse import negotiation, pdu
from libs.dimse.acceptor import Association
from libs.dimse.command import Command
from libs.dimse.negotiation import Acceptance, Context, Proposed, RefusedContext, Request
from libs.dimse.pdu import COMMAND, FRAGMENT, FRAGMENT_OVERHEAD, HEADER, LAST, Kind, Rejection
from libs.dimse.provider import Ending, Options, Peer, Reply, Said, Sink

CT: Final = "1.2.840.10008.5.1.4.1.1.2"
VERIFICATION: Final = "1.2.840.10008.1.1"
IMPLICIT: Final = "1.2.840.10008.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
OPTIONS: Final = Options(("1.2.826.0.1.3680043.10.1", "TEST"))
PEER: Final = Peer("192.0.2.1", 104)
REQUEST: Final = Request(
    called_aet="KIVUKO",
    calling_aet="MODALITY",
    contexts=(Proposed(1, CT, (EXPLICIT, IMPLICIT)), Proposed(3, VERIFICATION, (IMPLICIT,)), Proposed(5, "1.2.3", ())),
    max_pdu=16384,
    implementation_class_uid="1.2.3.4",
)
RELEASE: Final = pdu.encode_release_rq()
ABORT: Final = pdu.encode_abort(pdu.Source.USER, pdu.Reason.NOT_SPECIFIED)
#: What `Scripted` does once it has no bytes left.
CLOSES: Final = "closes"
SILENT: Final = "is silent"
BREAKS: Final = "breaks"


class Scripted:
    """A socket that gives bytes in parts of given sizes, and keeps what is sent."""

    def __init__(self, data: bytes, sizes: Iterable[int] = (), then: str = CLOSES) -> None:
        self._data = data
        self._sizes = iter(sizes)
        self._then = then
        self._at = 0
        self.sent = bytearray()
        self.reads = 0
        self.closed = 0
        self.reset = False

    def recv_into(self, buffer: memoryview, /) -> int:
        self.reads += 1
        if self._at == len(self._data):
            if self._then == SILENT:
                raise TimeoutError
            if self._then == BREAKS:
                raise ConnectionResetError
            return 0
        count = min(next(self._sizes, len(buffer)), len(buffer), len(self._data) - self._at)
        buffer[:count] = self._data[self._at : self._at + count]
        self._at += count
        return count

    def sendall(self, data: bytes, /) -> None:
        if self.closed:
            raise BrokenPipeError
        self.sent += data

    def settimeout(self, value: float, /) -> None:
        assert value > 0

    def setsockopt(self, level: int, option: int, value: bytes, /) -> None:
        assert (level, option) == (socket.SOL_SOCKET, socket.SO_LINGER)
        self.reset = value == struct.pack("ii", 1, 0)

    def close(self) -> None:
        self.closed += 1


class Recorder:
    """A provider that accepts what has a transfer syntax, and records and checks what it is told."""

    def __init__(self, rejection: Rejection | None = None) -> None:
        self.calls: list[tuple[object, ...]] = []
        self.open = 0
        self.endings: list[Ending] = []
        self.requests: list[Request] = []
        self._rejection = rejection

    def admit(self, request: Request, peer: Peer) -> Acceptance | Rejection:
        assert not self.requests
        assert peer == PEER
        self.requests.append(request)
        if self._rejection is not None:
            return self._rejection
        return Acceptance(
            tuple(
                Context(each.id, each.abstract_syntax, each.transfer_syntaxes[0])
                if each.abstract_syntax and each.transfer_syntaxes
                else RefusedContext(each.id, negotiation.TRANSFER_SYNTAXES_NOT_SUPPORTED)
                for each in request.contexts
            )
        )

    def receive(self, context: Context, command: Command) -> Sink:
        assert not self.open
        assert not self.endings
        self.open += 1
        return Collector(self, context, command)

    def answer(self, context: Context, command: Command) -> Iterable[Command | Reply]:
        assert not self.open
        self.calls.append(("answer", context.id, dict(command.elements)))
        yield commands.response(command, commands.SUCCESS)

    def ended(self, how: Ending) -> None:
        assert not self.open
        self.endings.append(how)


class Collector:
    """A sink that keeps the dataset."""

    def __init__(self, recorder: Recorder, context: Context, command: Command) -> None:
        self._recorder = recorder
        self._context = context
        self._command = command
        self._data = bytearray()

    def write(self, fragment: memoryview) -> None:
        assert self._recorder.open == 1
        assert len(fragment)
        self._data += fragment

    def finish(self) -> Said:
        self._close("stored")
        final = commands.response(self._command, commands.SUCCESS)
        if self._command.field != commands.C_FIND_RQ:
            return final
        pending = commands.response(self._command, commands.PENDING, dataset=True)
        return [Reply(pending, b"one "), Reply(pending, b"two "), final]

    def abandon(self) -> None:
        self._close("abandoned")

    def _close(self, how: str) -> None:
        self._recorder.open -= 1
        self._recorder.calls.append((how, self._context.id, dict(self._command.elements), bytes(self._data)))


def converse(
    data: bytes, sizes: Iterable[int] = (), then: str = CLOSES, *, recorder: Recorder | None = None
) -> tuple[Association, Recorder, bytes]:
    """Let a peer say these bytes; give the association, what the provider heard, and what the peer got."""
    recorder = recorder or Recorder()
    connected = Scripted(data, sizes, then)
    association = Association(connected, PEER, recorder, OPTIONS, now=lambda: 0.0)
    association.run()
    assert connected.closed == 1
    assert recorder.open == 0
    accepted = connected.sent[:1] == b"\x02"
    assert recorder.endings == ([association.ending] if accepted else [])
    return association, recorder, bytes(connected.sent)


def fragments(context_id: int, data: bytes, *, command: bool, sizes: Sequence[int] = ()) -> list[bytes]:
    """Cut a part of a message into fragments of these sizes, the rest in the last."""
    found, start = [], 0
    kind = COMMAND if command else 0
    for size in sizes:
        if start + size >= len(data):
            break
        found.append(fragment(context_id, data[start : start + size], kind))
        start += size
    return [*found, fragment(context_id, data[start:], kind | LAST)]


def fragment(context_id: int, data: bytes, flags: int) -> bytes:
    """Write one fragment with its head."""
    return FRAGMENT.pack(len(data) + FRAGMENT_OVERHEAD, context_id, flags) + data


def p_data(*parts: bytes) -> bytes:
    """Write a P-DATA-TF of fragments."""
    body = b"".join(parts)
    return HEADER.pack(Kind.P_DATA, len(body)) + body


def store(number: int, data: bytes, context_id: int = 1) -> bytes:
    """Write a C-STORE request with a dataset, each in a P-DATA-TF of its own."""
    command = commands.encode(commands.store_request(number, CT, f"1.2.3.{number}"))
    return p_data(*fragments(context_id, command, command=True)) + p_data(*fragments(context_id, data, command=False))


def echo(number: int, context_id: int = 3) -> bytes:
    """Write a C-ECHO request."""
    return p_data(*fragments(context_id, commands.encode(commands.echo_request(number)), command=True))


def split(data: bytes) -> list[tuple[int, bytes]]:
    """Cut what an acceptor sent into PDUs, type and body of each."""
    found = []
    while data:
        kind, length = HEADER.unpack_from(data)
        found.append((kind, data[HEADER.size : HEADER.size + length]))
        data = data[HEADER.size + length :]
    return found


def responses(data: bytes) -> list[Command]:
    """Read the responses among the PDUs that an acceptor sent, one fragment in each."""
    return [commands.decode(body[FRAGMENT.size :]) for kind, body in split(data) if kind == Kind.P_DATA]
