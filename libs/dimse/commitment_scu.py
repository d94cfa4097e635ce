"""Storage commitment as the one who asks, on an association of his own. PS3.4 section J.3.

- propose `commitment.proposed(context_id)` among the contexts of the request, and `ask` for the association
- `offered(association) -> bool`: whether the peer took it
- `Asking(association).ask(message_id, transaction_uid, references) -> Command`: the response of the archive
- `Asking.report(seconds) -> Reported | None`: what it reports on the same association; None: nothing yet
- `Asking.answer(reported, status)`: to be called with success only once the report is on stable storage

All of them raise what `requestor.Association.receive` and `send` raise when the association is over. A report that does
not come here comes on an association of the archive's own.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Final

from libs.dimse import command as commands
from libs.dimse import commitment
from libs.dimse.command import Command
from libs.dimse.commitment import Reference, Report, UnreadableReportError
from libs.dimse.pdu import MalformedError, Reason
from libs.dimse.requestor import Association, Message

#: Messages of the peer's own that are borne before a response.
_MOST_BETWEEN: Final = 64
#: Reports that are kept while something else is awaited: one is usual.
_MOST_KEPT: Final = 16


@dataclass(frozen=True)
class Reported:
    """A report that waits for its answer.

    Attributes
    ----------
    report
        What the archive said.
    message
        In which it said so.
    """

    report: Report
    message: Message


def offered(association: Association) -> bool:
    """Tell whether the peer took storage commitment when the association was agreed on."""
    return any(abstract == commitment.SOP_CLASS for abstract, _ in association.contexts)


class Asking:
    """Requests and reports on one association, from its thread.

    Parameters
    ----------
    association
        On which storage commitment was taken: see `offered`. Nothing else may be awaited on it meanwhile.
    now
        Seconds of a clock that only goes on.

    Raises
    ------
    KeyError
        It was not taken.
    """

    def __init__(self, association: Association, now: Callable[[], float] = time.monotonic) -> None:
        self._association = association
        self._now = now
        self._syntaxes = {
            context_id: syntax
            for (abstract, syntax), context_id in association.contexts.items()
            if abstract == commitment.SOP_CLASS
        }
        if not self._syntaxes:
            raise KeyError(commitment.SOP_CLASS)
        self._context_id = min(self._syntaxes)
        self._kept: deque[Reported] = deque()

    def ask(self, message_id: int, transaction_uid: str, references: Iterable[Reference]) -> Command:
        """Ask for commitment and give the response; a status of 0 says that the archive will report.

        Parameters
        ----------
        message_id
            Of no other request that is under way.
        transaction_uid, references
            See `commitment.encode_request`, with what it raises.
        """
        dataset = commitment.encode_request(transaction_uid, references, self._syntaxes[self._context_id])
        self._association.send(self._context_id, commitment.action_request(message_id), (dataset,))
        for _ in range(_MOST_BETWEEN):
            message = self._association.receive()
            if not message.command.field & commands.RESPONSE:
                # The report may be there before the response: nothing in PS3.4 forbids it.
                self._take(message)
                continue
            if message.command.field != commands.N_ACTION_RQ | commands.RESPONSE:
                raise MalformedError(Reason.UNEXPECTED_PARAMETER, "a response came that nothing was asked for")
            if message.command.responded_to != message_id:
                raise MalformedError(Reason.UNEXPECTED_PARAMETER, "a response names another message than was sent")
            return message.command
        raise MalformedError(Reason.UNEXPECTED_PARAMETER, "the peer asks and asks, and does not answer")

    def report(self, seconds: float) -> Reported | None:
        """Give the next report; None if none begins to come within so many seconds in total.

        What is no report that can be read is answered with a failure, and waited on. Give each to `answer`.
        """
        until = self._now() + seconds
        while not self._kept:
            left = until - self._now()
            message = self._association.expect(left) if left > 0 else None
            if message is None:
                return None
            if message.command.field & commands.RESPONSE:
                raise MalformedError(Reason.UNEXPECTED_PARAMETER, "a response came that nothing was asked for")
            self._take(message)
        return self._kept.popleft()

    def answer(self, reported: Reported, status: int) -> None:
        """Answer a report: 0 once it is on stable storage, else a failure, so that the archive comes again."""
        self._respond(reported.message, status)

    def _take(self, message: Message) -> None:
        request = message.command
        status = commitment.objection(request)
        if status is None and len(self._kept) >= _MOST_KEPT:
            status = commands.RESOURCE_LIMITATION
        if status is None:
            try:
                report = commitment.decode_report(message.dataset or b"", self._syntaxes.get(message.context_id, ""))
            except UnreadableReportError:
                status = commands.INVALID_ARGUMENT_VALUE
            else:
                self._kept.append(Reported(report, message))
                return
        self._respond(message, status)

    def _respond(self, message: Message, status: int) -> None:
        self._association.send(message.context_id, commands.response(message.command, status))
