"""A receiving node for demonstrations: takes every instance and keeps the hash of its dataset."""

import hashlib
import socket
from types import TracebackType
from typing import Any, Self

from pydicom.uid import AllTransferSyntaxes
from pynetdicom import AE, AllStoragePresentationContexts, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.transport import ThreadedAssociationServer


class Receiver:
    """Listens on a free port of loopback while the block lasts.

    Parameters
    ----------
    aets
        AE titles that it answers to.
    """

    def __init__(self, aets: tuple[str, ...]) -> None:
        self._hashes: dict[str, dict[str, str]] = {aet: {} for aet in aets}
        self._server: ThreadedAssociationServer | None = None
        self.port = 0

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self.port}"

    def hashes(self, aet: str) -> dict[str, str]:
        """Give SHA-256 of the dataset by SOP Instance UID, of everything that this AE title was sent."""
        return dict(self._hashes[aet])

    def __enter__(self) -> Self:
        """Start to listen."""
        entity = AE()
        for context in AllStoragePresentationContexts:
            entity.add_supported_context(str(context.abstract_syntax), AllTransferSyntaxes)
        handlers: list[Any] = [(evt.EVT_C_STORE, self._keep), (evt.EVT_CONN_OPEN, _no_delay)]
        server = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=handlers)
        if server is None:
            raise RuntimeError("a server that does not block is given back")
        self._server = server
        self.port = int(server.server_address[1])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop to listen."""
        if self._server is not None:
            self._server.shutdown()

    def _keep(self, event: evt.Event) -> int:
        asked, request = event.assoc.requestor.primitive, event.request
        if asked is None or not isinstance(request, C_STORE) or request.DataSet is None:
            return 0xC000
        digest = hashlib.sha256(request.DataSet.getvalue()).hexdigest()
        self._hashes[str(asked.called_ae_title).strip()][str(request.AffectedSOPInstanceUID)] = digest
        return 0x0000


def _no_delay(event: evt.Event) -> None:
    transport = event.assoc.dul.socket
    if transport is not None and transport.socket is not None:
        transport.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
