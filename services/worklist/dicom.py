"""What modalities may ask on the worklist port: C-ECHO, C-FIND of the worklist, and performed procedure steps.

The user of one association of `libs.dimse.acceptor`; all calls come from its thread.
"""

from collections.abc import Callable, Iterable
from ipaddress import ip_address
from typing import Final, Protocol

from libs.dicom.uid import new_uid
from libs.dimse import command as commands
from libs.dimse.admission import UNKNOWN_NODE, Admitted, Refusal
from libs.dimse.command import Command
from libs.dimse.gate import Gate
from libs.dimse.negotiation import (
    ABSTRACT_SYNTAX_NOT_SUPPORTED,
    TRANSFER_SYNTAXES_NOT_SUPPORTED,
    USER_REJECTION,
    Acceptance,
    Context,
    Proposed,
    RefusedContext,
    Request,
)
from libs.dimse.pdu import Rejection
from libs.dimse.provider import Declined, Ending, Gathered, Peer, Reply, Sink
from libs.telemetry import log
from services.worklist import metric
from services.worklist.caller import Caller, Done, Steps

_LOG = log.get(__name__)
VERIFICATION: Final = "1.2.840.10008.1.1"
#: Modality Worklist Information Model - FIND, PS3.4 section K.7.
WORKLIST: Final = "1.2.840.10008.5.1.4.31"
#: Modality Performed Procedure Step, PS3.4 section F.7, and its Retrieve, section F.8.
MPPS: Final = "1.2.840.10008.3.1.2.3.3"
MPPS_RETRIEVE: Final = "1.2.840.10008.3.1.2.3.4"
#: What a node's `may` has to name for each.
_NEEDS: Final = {WORKLIST: "worklist", MPPS: "mpps", MPPS_RETRIEVE: "mpps"}
#: Every proposal must have the first one, PS3.5 section 10.1.
_SYNTAXES: Final = ("1.2.840.10008.1.2", "1.2.840.10008.1.2.1")
#: A query with every key of PS3.4 table K.6-1 has about 2 KiB; a step with thousands of images a megabyte or two.
_LONGEST_IDENTIFIER: Final = 1 << 20
_LONGEST_STEP: Final = 16 << 20


class Answers(Protocol):
    """What answers queries."""

    def find(self, caller: Caller, request: Command, identifier: bytes, syntax: str) -> Iterable[Command | Reply]:
        """Give the responses to a C-FIND."""
        ...


class Visit:
    """One association.

    Parameters
    ----------
    name
        Of the association.
    gate
        Decides who is let in.
    answers
        Of C-FIND.
    steps
        Of N-CREATE, N-SET and N-GET; None: they are not taken.
    admitted
        Called when it has been decided who calls.
    """

    def __init__(
        self, name: str, gate: Gate, answers: Answers, steps: Steps | None, *, admitted: Callable[[], None]
    ) -> None:
        self._name = name
        self._gate = gate
        self._answers = answers
        self._steps = steps
        self._admitted = admitted
        self._caller: Caller | None = None

    def admit(self, request: Request, peer: Peer) -> Acceptance | Rejection:
        """Decide who calls, and what they may ask."""
        called, calling = request.called_aet, request.calling_aet
        decision = self._gate.admit(called, calling, peer.address, peer.certificate, association=self._name)
        self._admitted()
        only_echo = all(each.abstract_syntax == VERIFICATION for each in request.contexts)
        if isinstance(decision, Admitted) and not only_echo and (refusal := _unwanted(decision, request)) is not None:
            self._gate.closed(self._name)
            decision = refusal
        if isinstance(decision, Refusal):
            if not decision.permanent and decision.source == 1 and only_echo:
                # C-ECHO tells nothing: without a definition it is how people look for the port.
                return Acceptance(tuple(_answer(each, frozenset()) for each in request.contexts))
            metric.ASSOCIATIONS.labels(outcome="refused").inc()
            self._gate.refused(calling, called, peer.address, decision.reason)
            return Rejection(1 if decision.permanent else 2, decision.source, decision.diagnostic)
        self._caller = Caller(
            association=self._name,
            node=decision.node,
            site=decision.site,
            tenant=decision.tenant,
            calling_aet=calling,
            called_aet=called,
            address=str(ip_address(peer.address.partition("%")[0])),
        )
        metric.OPEN.inc()
        may = decision.may if self._steps is not None else decision.may - {"mpps"}
        return Acceptance(tuple(_answer(each, may) for each in request.contexts))

    def receive(self, context: Context, command: Command) -> Sink:
        """Take a request with a dataset."""
        caller, syntax, steps = self._caller, context.transfer_syntax, self._steps
        if caller is None:
            return Declined(command)
        if context.abstract_syntax == WORKLIST and command.field == commands.C_FIND_RQ:
            return Gathered(
                command,
                _LONGEST_IDENTIFIER,
                lambda identifier: self._answers.find(caller, command, identifier, syntax),
            )
        if context.abstract_syntax == MPPS and steps is not None:
            if command.field == commands.N_CREATE_RQ:
                uid = command.sop_instance_uid or new_uid()
                return Gathered(
                    command, _LONGEST_STEP, lambda data: [_said(command, steps.create(caller, uid, data, syntax), uid)]
                )
            if command.field == commands.N_SET_RQ:
                uid = command.requested_instance_uid
                return Gathered(
                    command, _LONGEST_STEP, lambda data: [_said(command, steps.set(caller, uid, data, syntax))]
                )
        return Declined(command)

    def answer(self, context: Context, command: Command) -> Iterable[Command | Reply]:
        """Answer a request without dataset."""
        caller, steps = self._caller, self._steps
        if command.field == commands.C_ECHO_RQ and context.abstract_syntax == VERIFICATION:
            yield commands.response(command, commands.SUCCESS)
        elif command.field == commands.N_GET_RQ and _is_step(context) and caller is not None and steps is not None:
            uid = command.requested_instance_uid
            yield _said(command, steps.get(caller, uid, command.attributes, context.transfer_syntax))
        elif command.field == commands.C_FIND_RQ:
            # Without an identifier there is nothing to match: PS3.4 section C.4.1.1.3.1.
            yield commands.response(command, _NO_IDENTIFIER, "a query without identifier")
        else:
            yield commands.response(command, commands.UNRECOGNIZED_OPERATION)

    def ended(self, how: Ending) -> None:
        """Give its place back, before the peer hears of the end and calls again."""
        self._gate.closed(self._name)
        metric.ASSOCIATIONS.labels(outcome=str(how)).inc()
        if self._caller is not None:
            metric.OPEN.dec()
            if how is not Ending.RELEASED:
                _LOG.info("association closed", association=self._name, node=self._caller.node, outcome=str(how))


#: Identifier does not match SOP class, PS3.4 table K.4-1.
_NO_IDENTIFIER: Final = 0xA900


def _is_step(context: Context) -> bool:
    return context.abstract_syntax in (MPPS, MPPS_RETRIEVE)


def _unwanted(node: Admitted, request: Request) -> Refusal | None:
    """Say why a node may do nothing of what it asks for, if so."""
    asked = {_NEEDS[each.abstract_syntax] for each in request.contexts if each.abstract_syntax in _NEEDS}
    if not asked:
        return None
    if asked & node.may:
        return None
    said = " or ".join(sorted(asked))
    if node.node == UNKNOWN_NODE:
        why = "no node of the network definition has this calling AE title: add one that `may` ask for"
        return Refusal(f"{why} {said}, then run `kivuko apply FILE`", permanent=True, diagnostic=3)
    return Refusal(
        f"the node {node.node} may not ask for {said}: add {' and '.join(sorted(asked))} to its `may`",
        permanent=True,
        diagnostic=1,
    )


def _answer(proposed: Proposed, may: frozenset[str]) -> Context | RefusedContext:
    if proposed.abstract_syntax != VERIFICATION:
        needs = _NEEDS.get(proposed.abstract_syntax)
        if needs is None:
            return RefusedContext(proposed.id, ABSTRACT_SYNTAX_NOT_SUPPORTED)
        if needs not in may:
            return RefusedContext(proposed.id, USER_REJECTION)
    known = [each for each in proposed.transfer_syntaxes if each in _SYNTAXES]
    if not known:
        return RefusedContext(proposed.id, TRANSFER_SYNTAXES_NOT_SUPPORTED)
    return Context(proposed.id, proposed.abstract_syntax, known[0])


def _said(request: Command, done: Done, created: str = "") -> Command | Reply:
    made = commands.response(
        request,
        done.status,
        done.comment,
        dataset=done.dataset is not None,
        error_id=done.error_id,
        sop_instance_uid=created,
        attributes=done.attributes,
    )
    return made if done.dataset is None else Reply(made, done.dataset)
