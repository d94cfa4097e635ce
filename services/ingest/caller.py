"""One association as its receiver sees it: what it asks the supervisor, and which requests it takes."""

import base64
from collections.abc import Iterator
from contextlib import suppress
from typing import Final

from libs.dimse import command as commands
from libs.dimse import commitment
from libs.dimse.command import Command
from libs.dimse.negotiation import Acceptance, Context, Request
from libs.dimse.pdu import Rejection
from libs.dimse.provider import Ending, Peer, Sink
from services.ingest import identity, presentation
from services.ingest.channel import Channel, ChannelClosedError
from services.ingest.intake import Intake, Session
from services.ingest.reporting import Reporting

#: A-ASSOCIATE-RJ, PS3.8 section 9.3.4: transient, by the service provider, temporary congestion.
_CONGESTED: Final = Rejection(result=2, source=3, reason=1)


class Caller:
    """A provider of `libs.dimse.acceptor`, for one association.

    Attributes
    ----------
    name
        Of the association once it was let in; its end must be told then.
    """

    def __init__(self, connection: int, channel: Channel, intake: Intake) -> None:
        self._connection = connection
        self._channel = channel
        self._intake = intake
        self._session: Session | None = None
        self.name: str | None = None

    def admit(self, request: Request, peer: Peer) -> Acceptance | Rejection:
        """Ask the supervisor who calls."""
        certificate = None if peer.certificate is None else base64.b64encode(peer.certificate).decode()
        try:
            answer = self._channel.ask(
                {
                    "kind": "admit",
                    "id": self._connection,
                    "called": request.called_aet,
                    "calling": request.calling_aet,
                    "address": peer.address,
                    "certificate": certificate,
                    "only_echo": presentation.only_echo(request.contexts),
                    "stores": any(presentation.is_storage(each.abstract_syntax) for each in request.contexts),
                    "reports": presentation.reports(request.contexts, request.roles),
                }
            )
        except ChannelClosedError:
            return _CONGESTED
        if answer["rejection"] is not None:
            return Rejection(*answer["rejection"])
        session = answer["session"]
        if session is None:
            # C-ECHO tells nothing and stores nothing: without a definition it is how people look for the port.
            return Acceptance(presentation.choose(request.contexts, store=False, standard=None))
        self._session = Session(**session)
        self.name = self._session.id
        standard = presentation.standard_classes() if answer["standard"] else None
        report = self._session.may_report
        return Acceptance(
            presentation.choose(request.contexts, store=self._session.may_store, standard=standard, report=report),
            presentation.agreed_roles(request.roles, report=report),
        )

    def receive(self, context: Context, command: Command) -> Sink:
        """Take a request with a dataset."""
        if self._is_report(context, command) and self.name is not None:
            return Reporting(self._channel, self.name, context.transfer_syntax, command)
        return self._intake.begin(self._session, context, command)

    def answer(self, context: Context, command: Command) -> Iterator[Command]:
        """Answer a request without dataset: C-ECHO, and a report that lacks its own."""
        if command.field == commands.C_ECHO_RQ and context.abstract_syntax == presentation.VERIFICATION:
            yield commands.response(command, identity.SUCCESS)
        elif self._is_report(context, command) and self.name is not None:
            yield Reporting(self._channel, self.name, context.transfer_syntax, command).finish()
        else:
            yield commands.response(command, identity.UNRECOGNIZED_OPERATION)

    def ended(self, how: Ending) -> None:
        """Give its place back, before the peer hears of the end and calls again."""
        if self.name is not None:
            # Without an answer it is told once more when the connection is gone.
            with suppress(ChannelClosedError):
                self._channel.ask({"kind": "closed", "association": self.name, "how": str(how)})

    @staticmethod
    def _is_report(context: Context, command: Command) -> bool:
        return context.abstract_syntax == commitment.SOP_CLASS and command.field == commands.N_EVENT_REPORT_RQ
