"""The edge to DICOM: C-ECHO and C-STORE with pynetdicom. Everything behind it knows nothing of pynetdicom."""

import asyncio
import socket
import threading
from collections.abc import Callable
from ipaddress import ip_address
from typing import Any, Final, Protocol

from pydicom.uid import AllTransferSyntaxes
from pynetdicom import AE, evt
from pynetdicom.association import Association
from pynetdicom.dimse_messages import C_STORE_RQ
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.pdu_primitives import SOPClassCommonExtendedNegotiation
from pynetdicom.presentation import build_context
from pynetdicom.sop_class import Verification  # type: ignore[attr-defined]  # made at run time
from pynetdicom.transport import ThreadedAssociationServer

from contracts.fact import Source
from libs.dicom.uid import IMPLEMENTATION_CLASS_UID, IMPLEMENTATION_VERSION_NAME
from libs.dimse.admission import UNKNOWN_NODE, Admitted, Refusal
from libs.telemetry import log
from services.ingest import identity, metric
from services.ingest.intake import Session, StoreRequest
from services.ingest.work import Work

_LOG = log.get(__name__)
#: What pynetdicom maps every C-STORE to, so that private and unknown SOP classes reach the storage service.
_ANY_STORAGE: Final = "1.2.840.10008.5.1.4.1.1.2"
#: Abstract syntaxes of the standard that are not storage: services that this port does not offer. PS3.6 table A-1.
_NOT_STORAGE: Final = (
    *("1.2.840.10008.1.", "1.2.840.10008.3.", "1.2.840.10008.5.1.1.", "1.2.840.10008.5.1.4.1.2."),
    *("1.2.840.10008.5.1.4.3", "1.2.840.10008.5.1.4.20.", "1.2.840.10008.5.1.4.31", "1.2.840.10008.5.1.4.32"),
    *("1.2.840.10008.5.1.4.33", "1.2.840.10008.5.1.4.34.", "1.2.840.10008.5.1.4.37.", "1.2.840.10008.5.1.4.38."),
    *("1.2.840.10008.5.1.4.39.", "1.2.840.10008.5.1.4.41", "1.2.840.10008.5.1.4.42", "1.2.840.10008.5.1.4.43."),
    *("1.2.840.10008.5.1.4.44.", "1.2.840.10008.5.1.4.45."),
    *("1.2.840.10008.5.1.4.1.1.200.4", "1.2.840.10008.5.1.4.1.1.200.5", "1.2.840.10008.5.1.4.1.1.200.6"),
    *("1.2.840.10008.5.1.4.1.1.201.2", "1.2.840.10008.5.1.4.1.1.201.3", "1.2.840.10008.5.1.4.1.1.201.4"),
    *("1.2.840.10008.5.1.4.1.1.201.5", "1.2.840.10008.5.1.4.1.1.201.6"),
)
#: Kinds that the prefixes above would hide although they are stored.
_STORAGE: Final = ("1.2.840.10008.5.1.4.34.7", "1.2.840.10008.5.1.4.34.10", "1.2.840.10008.5.1.4.39.1")
_KNOWN_SYNTAXES: Final = frozenset(str(uid) for uid in AllTransferSyntaxes)
_ACSE_TIMEOUT: Final = 30
_STOP_TIMEOUT: Final = 10


class Store(Protocol):
    """What is done with a C-STORE request."""

    def __call__(self, session: Session, request: StoreRequest) -> int:
        """Give the status of the response; called in the association's thread."""
        ...


class Acceptor:
    """Listens for associations, admits them, and hands C-STORE requests on.

    Parameters
    ----------
    admit
        Decides by called and calling AE title and source address.
    refused
        Told of each refusal: calling, called, address, why.
    store
        Answers a C-STORE request.
    work
        Told of associations that open and close.
    name
        Names an association.
    """

    def __init__(
        self,
        *,
        admit: Callable[[str, str, str], Admitted | Refusal],
        refused: Callable[[str, str, str, str], None],
        store: Store,
        work: Work,
        name: Callable[[], str],
        max_pdu: int,
        associations: int,
        network_timeout: float,
    ) -> None:
        self._admit = admit
        self._refused = refused
        self._store = store
        self._work = work
        self._name = name
        self._lock = threading.Lock()
        self._sessions: dict[Association, Session] = {}
        self._server: ThreadedAssociationServer | None = None
        self._ae = AE(ae_title="KIVUKO")
        self._ae.implementation_class_uid = IMPLEMENTATION_CLASS_UID
        self._ae.implementation_version_name = IMPLEMENTATION_VERSION_NAME
        self._ae.maximum_pdu_size = max_pdu
        self._ae.maximum_associations = associations
        self._ae.acse_timeout = _ACSE_TIMEOUT
        self._ae.dimse_timeout = network_timeout
        self._ae.network_timeout = network_timeout

    @property
    def address(self) -> str | None:
        """HOST:PORT that it listens on; None while it does not."""
        if self._server is None:
            return None
        host, port = self._server.server_address[:2]
        return f"[{host}]:{port}" if ":" in str(host) else f"{host}:{port}"

    async def start(self, host: str, port: int) -> None:
        """Listen. Raises OSError if the port is taken."""
        handlers: list[Any] = [
            (evt.EVT_CONN_OPEN, self._opened),
            (evt.EVT_CONN_CLOSE, self._closed),
            (evt.EVT_REQUESTED, self._requested),
            (evt.EVT_RELEASED, self._ended, ["released"]),
            (evt.EVT_ABORTED, self._ended, ["aborted"]),
            (evt.EVT_DIMSE_RECV, self._received),
            (evt.EVT_C_ECHO, lambda _event: identity.SUCCESS),
            (evt.EVT_C_STORE, self._stored),
        ]
        # Nothing but C-ECHO until an association is admitted, so that a failing admission lets nothing in.
        self._server = self._ae.start_server(
            (host, port), block=False, evt_handlers=handlers, contexts=[build_context(Verification)]
        )

    async def stop(self) -> None:
        """Stop listening, and abort what is open: nothing of an unfinished request was acknowledged."""
        server, self._server = self._server, None
        if server is not None:
            await asyncio.wait_for(asyncio.to_thread(self._ae.shutdown), _STOP_TIMEOUT)

    def _opened(self, event: evt.Event) -> None:
        # Without it each response waits for the peer's delayed acknowledgement, 40 ms.
        association: Any = event.assoc
        association.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def _closed(self, event: evt.Event) -> None:
        with self._lock:
            session = self._sessions.pop(event.assoc, None)
        if session is None:
            if not event.assoc.is_rejected and event.assoc.requestor.primitive is None:
                metric.ASSOCIATIONS.labels(outcome="no-association").inc()
                _LOG.warning(
                    "connection closed without a valid association request", address=event.assoc.requestor.address
                )
            return
        self._work.closed(session.id)
        metric.OPEN.set(self._work.associations())
        _LOG.info("association closed", association=session.id, node=session.node.node)

    def _ended(self, _event: evt.Event, outcome: str) -> None:
        metric.ASSOCIATIONS.labels(outcome=outcome).inc()

    def _requested(self, event: evt.Event) -> None:
        association = event.assoc
        request: Any = association.requestor.primitive
        called, calling = str(request.called_ae_title).strip(), str(request.calling_ae_title).strip()
        address = str(association.requestor.address)
        proposed = request.presentation_context_definition_list
        decision = self._admit(called, calling, address)
        if isinstance(decision, Admitted) and "store" not in decision.may and not _only_echo(proposed):
            decision = Refusal(
                f"the node {decision.node} may not store: add `store` to its `may`", permanent=True, diagnostic=1
            )
        if isinstance(decision, Refusal):
            # C-ECHO tells nothing and stores nothing: without a definition it is how people look for the port.
            if not decision.permanent and _only_echo(proposed):
                return
            metric.ASSOCIATIONS.labels(outcome="refused").inc()
            self._refused(calling, called, address, decision.reason)
            association.acse.send_reject(1 if decision.permanent else 2, 1, decision.diagnostic)
            association.kill()
            return
        self._accept(association, decision, proposed, (calling, called, address))

    def _accept(self, association: Association, node: Admitted, proposed: Any, names: tuple[str, str, str]) -> None:
        calling, called, address = names
        session = Session(
            id=self._name(),
            node=node,
            source=Source(
                site=node.site,
                node=node.node,
                calling_aet=calling,
                called_aet=called,
                address=str(ip_address(address.partition("%")[0])),
            ),
        )
        if "store" in node.may:
            association.acceptor.supported_contexts = _contexts(proposed)
        with self._lock:
            self._sessions[association] = session
        self._work.opened(session.id)
        metric.OPEN.set(self._work.associations())
        metric.ASSOCIATIONS.labels(outcome="accepted").inc()
        say = _LOG.warning if node.node == UNKNOWN_NODE else _LOG.info
        say("association accepted", association=session.id, node=node.node, calling_aet=calling, address=address)

    def _received(self, event: evt.Event) -> None:
        """Have pynetdicom take a C-STORE as one whatever its SOP class: it would drop private and unknown ones."""
        if not isinstance(event.message, C_STORE_RQ):
            return
        sop_class = event.message.command_set.get("AffectedSOPClassUID")
        accepted = event.assoc.acceptor._common_ext  # noqa: SLF001 (the only way in for classes that it does not know)
        if sop_class is not None and sop_class not in accepted:
            item = SOPClassCommonExtendedNegotiation()
            item._sop_class_uid = sop_class  # noqa: SLF001 (its setter refuses what it thinks is malformed)
            item.service_class_uid = _ANY_STORAGE
            accepted[sop_class] = item

    def _stored(self, event: evt.Event) -> int:
        """Answer a C-STORE request: the statuses are those of `Intake.store`.

        Besides, 0x0122 for one on a presentation context that is not for storage, and 0x0211 for what is no C-STORE.
        """
        request = event.request
        if not isinstance(request, C_STORE) or request.DataSet is None:
            return identity.UNRECOGNIZED_OPERATION
        if event.context.abstract_syntax == Verification:
            return identity.SOP_CLASS_NOT_SUPPORTED
        with self._lock:
            session = self._sessions.get(event.assoc)
        if session is None:
            return identity.NOT_AUTHORIZED
        try:
            return self._answer(session, event, request)
        except Exception as error:  # noqa: BLE001 (whatever it is: nothing was promised, and the sender is to come again)
            metric.FAILURES.labels(kind="alarm").inc()
            _LOG.error("store refused by a defect", status="0xA700", association=session.id, exc_info=error)
            return identity.OUT_OF_RESOURCES

    def _answer(self, session: Session, event: evt.Event, request: C_STORE) -> int:
        return self._store(
            session,
            StoreRequest(
                sop_class_uid=str(request.AffectedSOPClassUID or ""),
                sop_instance_uid=str(request.AffectedSOPInstanceUID or ""),
                transfer_syntax_uid=str(event.context.transfer_syntax),
                dataset=request.DataSet.getbuffer() if request.DataSet is not None else memoryview(b""),
            ),
        )


def _only_echo(proposed: Any) -> bool:
    return all(context.abstract_syntax == Verification for context in proposed)


def _contexts(proposed: Any) -> list[Any]:
    """Support what is proposed: Verification, and each storage class in the transfer syntaxes that we know."""
    wanted: dict[str, list[str]] = {str(Verification): []}
    for context in proposed:
        syntaxes = [str(syntax) for syntax in context.transfer_syntax if str(syntax) in _KNOWN_SYNTAXES]
        if syntaxes and is_storage(str(context.abstract_syntax)):
            known = wanted.setdefault(str(context.abstract_syntax), [])
            known.extend(syntax for syntax in syntaxes if syntax not in known)
    return [
        build_context(abstract, syntaxes) if syntaxes else build_context(abstract)
        for abstract, syntaxes in wanted.items()
    ]


def is_storage(abstract_syntax: str) -> bool:
    """Tell whether an abstract syntax is a storage SOP class, as private and unknown ones are taken to be."""
    return abstract_syntax in _STORAGE or not abstract_syntax.startswith(_NOT_STORAGE)
