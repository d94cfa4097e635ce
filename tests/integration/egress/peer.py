"""Receivers that misbehave as they are told, and parcels for them."""

import hashlib
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

from pynetdicom import AE, evt
from pynetdicom.presentation import PresentationContext, build_context

from libs.dicom import part10
from libs.storage.objects import ObjectStore
from services.egress.parcel import Parcel
from services.egress.reach import Target
from tests.support.synthetic import CT_IMAGE_STORAGE, EXPLICIT_LITTLE_ENDIAN

#: SOP Instance UID to DICOM status, or to ABORT.
Answer = Callable[[str], int]
ABORT = -1


def keep(objects: ObjectStore, path: Path, number: int) -> Parcel:
    """Put a Part 10 file into the store and describe it."""
    content = path.read_bytes()
    meta, offset = part10.decode(BytesIO(content))
    key = f"t/{number}-{meta.sop_instance_uid}.dcm"
    objects.put(key, content)
    return Parcel(
        item=number,
        delivery_id="d",
        rank=(1, number),
        sop_class_uid=meta.sop_class_uid,
        sop_instance_uid=meta.sop_instance_uid,
        transfer_syntax_uid=meta.transfer_syntax_uid,
        content_hash=hashlib.sha256(content[offset:]).hexdigest(),
        object_key=key,
        size=len(content),
    )


def at(port: int, aet: str = "STORESCP", associations: int = 2) -> Target:
    """Name a receiver on loopback."""
    return Target("127.0.0.1", port, aet, "KIVUKO", associations)


class Receiver:
    """A C-STORE SCP that answers as it is told and counts what it gets."""

    def __init__(self, answer: Answer) -> None:
        self._answer = answer
        self._lock = threading.Lock()
        self._open = 0
        self.received: list[str] = []
        self.most_associations = 0
        self.port = 0

    def store(self, event: evt.Event) -> int:
        """Answer a C-STORE request."""
        uid = str(getattr(event.request, "AffectedSOPInstanceUID", None))
        status = self._answer(uid)
        if status == ABORT:
            event.assoc.abort()
            return 0xC000
        with self._lock:
            self.received.append(uid)
        return status

    def opened(self, _event: evt.Event) -> None:
        """Count an association."""
        with self._lock:
            self._open += 1
            self.most_associations = max(self.most_associations, self._open)

    def closed(self, _event: evt.Event) -> None:
        """Count it off."""
        with self._lock:
            self._open -= 1


@contextmanager
def receiver(
    answer: Answer = lambda _uid: 0x0000, contexts: list[PresentationContext] | None = None, port: int = 0
) -> Iterator[Receiver]:
    """Run a receiver for explicit little endian CT, or for the contexts given."""
    found = Receiver(answer)
    entity = AE("STORESCP")
    entity.supported_contexts = contexts or [build_context(CT_IMAGE_STORAGE, [EXPLICIT_LITTLE_ENDIAN])]
    handlers: list[Any] = [
        (evt.EVT_C_STORE, found.store),
        (evt.EVT_ESTABLISHED, found.opened),
        (evt.EVT_CONN_CLOSE, found.closed),
    ]
    server: Any = entity.start_server(("127.0.0.1", port), block=False, evt_handlers=handlers)
    found.port = server.server_address[1]
    try:
        yield found
    finally:
        server.shutdown()


@contextmanager
def mute() -> Iterator[int]:
    """Run a server that takes connections and never says or reads anything; give its port."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]
