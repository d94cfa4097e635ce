"""An acceptor on loopback that keeps what it gets, one thread an association."""

import hashlib
import socket
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from queue import Queue

import pytest

from libs.dimse import command as commands
from libs.dimse.acceptor import Association
from libs.dimse.command import Command
from libs.dimse.negotiation import Acceptance, Context, RefusedContext, Request
from libs.dimse.pdu import Rejection
from libs.dimse.provider import Ending, Options, Peer, Sink

OPTIONS = Options(("1.2.826.0.1.3680043.10.1", "TEST"))
#: Seconds within which a test gives up; nothing is measured by it.
PATIENCE = 60


class Hashed:
    """A sink that keeps the hash of a dataset, and tells where its first bytes were."""

    def __init__(self, acceptor: "Acceptor", context: Context, command: Command) -> None:
        self._acceptor = acceptor
        self._context = context
        self._command = command
        self._hash = hashlib.sha256()

    def write(self, fragment: memoryview) -> None:
        self._hash.update(fragment)
        self._acceptor.writing.set()

    def finish(self) -> Command:
        key = (self._command.sop_class_uid, self._context.transfer_syntax, self._command.sop_instance_uid)
        self._acceptor.stored[key] = self._hash.hexdigest()
        return commands.response(self._command, commands.SUCCESS)

    def abandon(self) -> None:
        self._acceptor.abandoned += 1


class Acceptor:
    """Accepts everything, in the first transfer syntax proposed."""

    def __init__(self) -> None:
        self.options = OPTIONS
        self.rejection: Rejection | None = None
        self.stored: dict[tuple[str, str, str], str] = {}
        self.abandoned = 0
        self.requests: list[Request] = []
        self.endings: Queue[Ending] = Queue()
        self.associations: Queue[Association] = Queue()
        self.ran: Queue[Ending] = Queue()
        self.writing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._connected: list[Association] = []
        self._accepting = threading.Thread(target=self._accept)
        self._accepting.start()

    def stop(self) -> None:
        """End everything; fails if a thread outlives it."""
        self._listener.shutdown(socket.SHUT_RDWR)
        self._accepting.join(PATIENCE)
        self._listener.close()
        for association in self._connected:
            association.abort()
        for thread in self._threads:
            thread.join(PATIENCE)
            assert not thread.is_alive()

    def admit(self, request: Request, peer: Peer) -> Acceptance | Rejection:
        assert peer.address == "127.0.0.1"
        self.requests.append(request)
        return self.rejection or Acceptance(
            tuple(
                Context(each.id, each.abstract_syntax, each.transfer_syntaxes[0])
                if each.transfer_syntaxes
                else RefusedContext(each.id, 4)
                for each in request.contexts
            )
        )

    def receive(self, context: Context, command: Command) -> Sink:
        return Hashed(self, context, command)

    def answer(self, context: Context, command: Command) -> Iterable[Command]:
        assert context.abstract_syntax == "1.2.840.10008.1.1"
        yield commands.response(command, commands.SUCCESS)

    def ended(self, how: Ending) -> None:
        self.endings.put(how)

    def impatient(self, *, artim: float | None = None, network: float | None = None) -> None:
        """Bear less from the connections that come."""
        options = self.options
        self.options = replace(
            options,
            artim_timeout=options.artim_timeout if artim is None else artim,
            network_timeout=options.network_timeout if network is None else network,
        )

    def _accept(self) -> None:
        while True:
            try:
                connected, address = self._listener.accept()
            except OSError:
                return
            association = Association(connected, Peer(address[0], address[1]), self, self.options)
            self._connected.append(association)
            self.associations.put(association)
            thread = threading.Thread(target=lambda each=association: self.ran.put(each.run()))
            self._threads.append(thread)
            thread.start()


@pytest.fixture
def acceptor() -> Iterator[Acceptor]:
    running = Acceptor()
    yield running
    running.stop()
