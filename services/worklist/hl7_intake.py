"""One HL7 message, from its bytes to its answer: read, kept with all that it says, and answered after that."""

import asyncio
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, Protocol

from contracts.definition import Definition, Snapshot
from libs.clock import Clock
from libs.hl7.acknowledgement import Answer, Asked, Fault, answers, asked, is_answer
from libs.hl7.charset import UnknownCharsetError, decode
from libs.hl7.message import MalformedError, Message, parse, trimmed
from libs.snapshot import NetworkView
from libs.telemetry import log
from libs.telemetry.failure import described
from services.worklist import hl7_metric as metric
from services.worklist.hl7 import Interpretation, Sender, interpret, kind_of
from services.worklist.orders import NotTakenError, Received, Taken
from services.worklist.sender import Known, Senders, Stranger, charset_of, node_of

_LOG = log.get(__name__)
#: Bytes from which on a message is read in a thread, so that it holds up no other connection.
_LARGE: Final = 200_000
_AGAIN: Final = Fault(207, "it could not be kept just now: send it again")


class Taking(Protocol):
    """Keeps what was received: `services.worklist.orders.Orders`."""

    async def take(self, received: Received) -> Taken:
        """Keep it and apply it; returns after the commit. Raises NotTakenError."""
        ...


@dataclass(frozen=True)
class Read:
    """A message that was read.

    Attributes
    ----------
    message
        None where the bytes are none.
    asked
        How to answer.
    interpretation
        What it says.
    """

    message: Message | None
    asked: Asked
    interpretation: Interpretation


def read(raw: bytes, definition: Definition, sender: Sender, received_at: datetime) -> Read:
    """Read a message of a sender; what is wrong with it stands among the faults. Pure."""
    default, always = charset_of(definition, sender.node)
    try:
        message = parse(decode(trimmed(raw), default, always=always))
    except (UnknownCharsetError, MalformedError) as error:
        place, code = ("MSH-18", 103) if isinstance(error, UnknownCharsetError) else ("MSH", 100)
        return Read(
            None, header(raw), Interpretation(faults=(Fault(code, f"the message is not taken: {error}", place),))
        )
    if is_answer(message):
        return Read(message, asked(message), Interpretation())
    return Read(message, asked(message), interpret(message, sender, received_at))


def header(raw: bytes) -> Asked:
    """Read how to answer from bytes that may be no message, or one in a character set that is not known."""
    try:
        return asked(parse(decode(trimmed(raw)[:_LARGE], "8859/1", always=True)))
    except (MalformedError, UnknownCharsetError):
        return Asked()


class Intake:
    """Takes messages, from many connections of one event loop.

    Parameters
    ----------
    network
        The definition in force.
    orders
        Keeps what messages say.
    clock
        The time in UTC.
    """

    def __init__(self, network: NetworkView, orders: Taking, clock: Clock) -> None:
        self._network = network
        self._orders = orders
        self._clock = clock
        self._senders = Senders()

    async def take(self, raw: bytes, known: Known | Stranger, address: str) -> list[bytes]:
        """Take one message, and give its answers: none for what is an answer itself.

        AA stands for what is kept and applied, AE for what is kept and refused, AR for what is not kept and has to be
        sent again.
        """
        received_at = self._clock()
        snapshot = self._network.current
        if isinstance(known, Stranger) or snapshot is None:
            return self._refused(raw, known, address)
        node = known.nodes[0] if known.certain else _named(snapshot.definition, known, header(raw))
        if isinstance(node, Stranger):
            return self._refused(raw, node, address)
        sender = self._senders.sender(snapshot, node)
        if len(raw) > _LARGE:
            found = await asyncio.to_thread(read, raw, snapshot.definition, sender, received_at)
        else:
            found = read(raw, snapshot.definition, sender, received_at)
        if found.message is not None and is_answer(found.message):
            metric.MESSAGES.labels(kind="answer", outcome="ignored").inc()
            _LOG.info("an acknowledgement came without a question: it is not answered", node=node)
            return []
        answer, faults = await self._kept(raw, found, sender, received_at)
        metric.SECONDS.observe((self._clock() - received_at).total_seconds())
        return self._answers(found.asked, answer, faults)

    async def again(
        self, raw: bytes, snapshot: Snapshot, node: str, received_at: datetime
    ) -> tuple[Answer, tuple[Fault, ...]]:
        """Read a message anew that could not be read when it came; nobody is answered.

        Parameters
        ----------
        node
            It came from there.
        received_at
            When it came, in UTC.
        """
        sender = self._senders.sender(snapshot, node)
        found = await asyncio.to_thread(read, raw, snapshot.definition, sender, received_at)
        return await self._kept(raw, found, sender, received_at)

    async def _kept(
        self, raw: bytes, found: Read, sender: Sender, received_at: datetime
    ) -> tuple[Answer, tuple[Fault, ...]]:
        interpretation = found.interpretation
        kind = "other" if found.message is None else kind_of(found.message)
        received = Received(
            source=sender.node,
            control_id=found.asked.control_id,
            raw=raw,
            received_at=received_at,
            changes=interpretation.changes,
            warnings=interpretation.warnings,
            tenant=sender.tenant,
            refusal="; ".join(f"{fault.place}: {fault.said}" for fault in interpretation.faults),
        )
        answer: Answer = "AR"
        faults: tuple[Fault, ...] = (_AGAIN,)
        try:
            taken = await self._orders.take(received)
        except NotTakenError as error:
            _LOG.warning("an HL7 message was not taken for now", node=sender.node, reason=str(error))
        except Exception as error:  # noqa: BLE001 - a defect: the sender keeps the message and sends it again
            metric.FAILURES.inc()
            _LOG.error("an HL7 message could not be taken, by a defect", node=sender.node, **described(error))
        else:
            answer, faults = verdict(interpretation, taken)
        kind = kind if kind in metric.KINDS else "other"
        metric.MESSAGES.labels(kind=kind, outcome=answer).inc()
        if interpretation.warnings:
            metric.WARNINGS.labels(node=sender.node).inc()
        if answer == "AE":
            # A caret looks like a part of a name, which no log shows.
            what, why = kind.replace("^", " "), "; ".join(fault.place or fault.said for fault in faults)
            _LOG.warning("HL7 message refused", node=sender.node, type=what, reason=why)
        return answer, faults

    def _refused(self, raw: bytes, stranger: Known | Stranger, address: str) -> list[bytes]:
        reason = stranger.reason if isinstance(stranger, Stranger) else "there is no network definition"
        metric.MESSAGES.labels(kind="other", outcome="stranger").inc()
        _LOG.warning("HL7 message refused: its sender is not known", address=address, reason=reason)
        return self._answers(header(raw), "AR", (Fault(207, reason),))

    def _answers(self, to: Asked, answer: Answer, faults: Sequence[Fault]) -> list[bytes]:
        return answers(to, answer, faults, now=self._clock(), control_id=secrets.token_hex(9))


def _named(definition: Definition, known: Known, to: Asked) -> str | Stranger:
    application, facility = (text.partition("^")[0] for text in (to.application, to.facility))
    return node_of(definition, known.nodes, application, facility)


def verdict(interpretation: Interpretation, taken: Taken) -> tuple[Answer, tuple[Fault, ...]]:
    """Say what a message is answered with, and why: never AA for one that says nothing that was taken."""
    if interpretation.faults:
        return "AE", interpretation.faults
    refused = tuple(Fault(204, outcome.reason) for outcome in taken.outcomes if outcome.result == "refused")
    if refused:
        return "AE", refused
    if not taken.outcomes:
        return "AE", (Fault(100, "the message says nothing that makes or changes an item"),)
    return "AA", ()
