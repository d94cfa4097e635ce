"""Senders of orders, and modalities, that go on whatever happens: they say again what was not answered."""

import random
import socket
import ssl
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from libs.hl7.mllp import END, START
from tests.integration.worklist.modality import Modality
from tests.soak.worklist_book import Book, Form, Kind, Message, Order, Performed, Request, about, merge, placed
from tests.unit.worklist.performed import created, ended, scheduled

_ROOT: Final = "1.2.826.0.1.3680043.8.498.78"
_CHUNK: Final = 1 << 16
#: Bytes of a message that counts as large, from and to; the longest that is taken is 10 MB.
_LARGE: Final = (1_200_000, 3_000_000)
_LARGEST: Final = 9_990_000
_DUPLICATE: Final = 0x0111
_OVER: Final = 0xA710


class Gate:
    """Holds all senders up between the lives of what they send to."""

    def __init__(self, senders: int) -> None:
        self._changed = threading.Condition()
        self._open = False
        self._waiting = 0
        self._senders = senders

    def passed(self) -> None:
        """Wait until it is open."""
        with self._changed:
            self._waiting += 1
            self._changed.notify_all()
            self._changed.wait_for(lambda: self._open)
            self._waiting -= 1

    def close(self) -> None:
        """Let nobody pass any more."""
        with self._changed:
            self._open = False

    def open(self) -> None:
        """Let all pass."""
        with self._changed:
            self._open = True
            self._changed.notify_all()

    def all_wait(self, timeout_s: float) -> None:
        """Return when every sender has lost its connection and waits."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._waiting == self._senders, timeout_s):
                raise TimeoutError(f"{self._senders - self._waiting} senders hang: neither an answer nor an end")


class Large:
    """A large message that someone waits for."""

    def __init__(self) -> None:
        self._wanted = threading.Event()
        self._amid = threading.Event()

    def awaited(self, timeout_s: float) -> bool:
        """Have a large message sent, and return while it is on its way; False if none is."""
        self._amid.clear()
        self._wanted.set()
        return self._amid.wait(timeout_s)

    def due(self) -> bool:
        """Tell one sender that it is its turn."""
        due = self._wanted.is_set()
        self._wanted.clear()
        return due

    def under_way(self) -> None:
        """Say that some of it is sent."""
        self._amid.set()


class Sender(ABC):
    """A thread that goes on until it is told to end and has nothing left to say."""

    def __init__(self, gate: Gate, book: Book, choice: random.Random) -> None:
        self._gate = gate
        self._book = book
        self._choice = choice
        self._ending = threading.Event()
        self.failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def end(self) -> None:
        """Say nothing new."""
        self._ending.set()

    def join(self, timeout_s: float) -> None:
        """Wait until it has ended; raise what ended it before."""
        self._thread.join(timeout_s)
        if self._thread.is_alive():
            raise TimeoutError("a sender hangs: it has neither an answer nor an end of its connection")
        if self.failure is not None:
            raise self.failure

    def _run(self) -> None:
        try:
            while not (self._ending.is_set() and not self._owes()):
                self._gate.passed()
                # Whoever is away is called again.
                with suppress(OSError):
                    self._connection()
        except BaseException as error:
            self.failure = error
            raise

    @abstractmethod
    def _owes(self) -> bool:
        """Tell whether something waits to be answered."""

    @abstractmethod
    def _connection(self) -> None:
        """Call, and go on until it ends. Raises OSError when it breaks."""


class Interface(Sender):
    """One connection of a RIS: orders, changes, cancellations, appointments, patients and merges.

    Parameters
    ----------
    address
        Gives where to call.
    depth
        How many messages may be on their way before the first of them is answered.
    large
        Tells when a message has to be large; none for who sends no such.
    tls
        For connections with TLS; none without.
    """

    def __init__(
        self,
        gate: Gate,
        book: Book,
        choice: random.Random,
        address: Callable[[], str],
        *,
        depth: int,
        large: Large | None,
        tls: ssl.SSLContext | None,
    ) -> None:
        super().__init__(gate, book, choice)
        self._address = address
        self._depth = depth
        self._large = large
        self._tls = tls
        self._waiting: list[Message] = []
        self._mine: list[Order] = []
        self._merges: list[Message] = []
        self._patients: list[str] = []
        #: What was on its way before the connection broke, and had never been sent before, in its order.
        self.lost: list[Message] = []
        self.given_up = 0
        self.put_off = 0

    def _owes(self) -> bool:
        return bool(self._waiting)

    def _connection(self) -> None:
        host, _, port = self._address().rpartition(":")
        with socket.create_connection((host, int(port)), timeout=60) as plain:
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            line = plain if self._tls is None else self._tls.wrap_socket(plain, server_hostname="localhost")
            try:
                answers = _Answers(line)
                while not (self._ending.is_set() and not self._waiting):
                    self._fill()
                    self.lost = []
                    for each in self._waiting:
                        self._send(line, each)
                    while self._waiting:
                        if not self._take(answers, self._waiting[0]):
                            return
                        del self._waiting[0]
            except OSError:
                self._give_up()
                raise
            finally:
                line.close()

    def _fill(self) -> None:
        wanted = self._choice.randint(1, self._depth)
        while len(self._waiting) < wanted and not self._ending.is_set():
            self._waiting.append(self._another())

    def _send(self, line: socket.socket, message: Message) -> None:
        self._book.say(message)
        if message.tries == 1:
            self.lost.append(message)
        frame = START + message.raw + END
        if self._large is None or len(frame) < _LARGE[0]:
            line.sendall(frame)
            return
        cut = self._choice.randrange(len(frame))
        for at in range(0, len(frame), _CHUNK):
            if at <= cut < at + _CHUNK:
                self._large.under_way()
            line.sendall(frame[at : at + _CHUNK])

    def _take(self, answers: "_Answers", message: Message) -> bool:
        code, control_id = answers.next()
        if control_id != message.control_id:
            self._book.fault(f"{message.control_id} was answered as {control_id}")
        elif code == "AR":
            # Not now: it is sent again, over a new connection.
            self.put_off += 1
            return False
        elif code != message.want:
            self._book.fault(f"{message.control_id} ({message.kind}) was answered {code}, not {message.want}")
        self._book.heard(message)
        return True

    def _give_up(self) -> None:
        """Someone takes a message that was not answered out of the queue, at times."""
        left = [each for each in self._waiting if not each.tries or self._choice.random() > 0.04]
        self.given_up += len(self._waiting) - len(left)
        self._waiting = left

    def _another(self) -> Message:
        odds, choice = self._choice.random(), self._choice
        if odds < 0.05 and self._mine and (said := choice.choice(self._mine).said):
            # An answer was lost on its way: the same once more.
            return choice.choice(said)
        number = self._book.number()
        if odds < 0.17 and self._patients:
            return self._of_patients(number, odds)
        if odds < 0.24 and (another := self._book.settled(choice.random())) is not None:
            return self._change(number, another)
        if odds < 0.60 and self._mine:
            return self._change(number, choice.choice(self._mine[-10:]))
        return self._order(number)

    def _of_patients(self, number: int, odds: float) -> Message:
        if odds < 0.10:
            return about(number, self._choice.choice(self._patients))
        done = [each for each in self._merges if each.answers]
        if odds < 0.14 or not done:
            return self._merge(number)
        one = self._choice.choice(done)
        return merge(number, one.merged, one.patient, inverse=True)

    def _order(self, number: int) -> Message:
        patients, choice = self._patients, self._choice
        if not patients or choice.random() < 0.4:
            patients.append(f"P{number}")
        forms: tuple[Form, ...] = ("steps", "omi", "omi", "orm", "siu")
        order = Order(number, choice.choice(patients[-5:]), choice.choice(forms))
        self._mine.append(order)
        return placed(number, "new", order, self._bytes(order))

    def _change(self, number: int, order: Order) -> Message:
        kinds: tuple[Kind, ...] = ("change", "change", "change", "cancel", "start", "complete")
        kind = self._choice.choice(kinds[:4] if order.form == "siu" else kinds)
        return placed(number, kind, order, self._bytes(order))

    def _bytes(self, order: Order) -> int:
        if order.form == "siu" or self._large is None or not self._large.due():
            return 0
        return _LARGEST if self._choice.random() < 0.3 else self._choice.randint(*_LARGE)

    def _merge(self, number: int) -> Message:
        """An unknown patient, of whom nothing but an order may be known, turns out to be one who is known."""
        involved = {name for each in self._merges for name in (each.patient, each.merged)}
        free = [each for each in self._patients if each not in involved]
        if len(free) < 2:
            return about(number, self._patients[0])
        kept, gone = self._choice.sample(free, 2)
        self._merges.append(merge(number, kept, gone))
        return self._merges[-1]


class _Answers:
    """Answers as they come, out of their frames."""

    def __init__(self, line: socket.socket) -> None:
        self._line = line
        self._rest = b""

    def next(self) -> tuple[str, str]:
        """Give code and control identifier of the next. Raises OSError at the end of the stream."""
        while END not in self._rest:
            data = self._line.recv(_CHUNK)
            if not data:
                raise ConnectionError("closed without an answer")
            self._rest += data
        answer, _, self._rest = self._rest.partition(END)
        said = next(line for line in answer.decode().split("\r") if line.startswith("MSA|")).split("|")
        return said[1], said[2]


class Scanner(Sender):
    """A modality that reports what it does, mostly of orders that were acknowledged."""

    def __init__(self, gate: Gate, book: Book, choice: random.Random, port: Callable[[], int]) -> None:
        super().__init__(gate, book, choice)
        self._port = port
        self._step: Performed | None = None
        self.put_off = 0

    def _owes(self) -> bool:
        return self._step is not None

    def _connection(self) -> None:
        with Modality(self._port()) as line:
            while not (self._ending.is_set() and self._step is None):
                if self._step is None:
                    self._step = self._another()
                    self._book.report(self._step)
                for request in self._step.requests:
                    if not request.answered:
                        self._ask(line, self._step, request)
                self._step = None

    def _another(self) -> Performed:
        order = None if self._choice.random() < 0.2 else self._book.examined()
        if order is not None and order.form in ("orm", "siu"):
            # Its modality knows no study of it: it makes one.
            order = None
        numbers = [self._book.number() for _ in range(self._choice.randint(2, 4))]
        requests = [Request(each, "in-progress") for each in numbers]
        requests[-1].state = "discontinued" if self._choice.random() < 0.2 else "completed"
        return Performed(f"{_ROOT}.{numbers[0]}", order, requests)

    def _ask(self, line: Modality, step: Performed, request: Request) -> None:
        request.sent += 1
        told = {"PerformedProcedureStepDescription": (f"T{request.number}",)}
        if request is step.requests[0]:
            order = step.order
            what = scheduled(_ROOT) if order is None else scheduled(order.study, order.steps[0], f"A{order.number}")
            patient = "UNKNOWN" if order is None else order.patient
            status, _ = line.create(created(what, patient=patient, **told), step.uid)
        elif request.state == "in-progress":
            status, _ = line.set(told, step.uid)
        else:
            status, _ = line.set({**ended(request.state.upper()), **told}, step.uid)
        if "Status" not in status:
            raise ConnectionError("closed without an answer")
        again = status.Status == _DUPLICATE or status.get("ErrorID") == _OVER
        if status.Status != 0 and not (again and request.sent > 1):
            if status.Status == 0x0110 and status.get("ErrorID") is None:
                self.put_off += 1
                raise ConnectionError("not taken for now")
            self._book.fault(f"{step.uid}: a request was answered {status.Status:04X}")
        request.answered = True
