"""A plain pynetdicom SCP that writes datasets to files: `python -m tests.bench.plain_scp PORT FOLDER [nodelay]`."""

import socket
import sys
from itertools import count
from pathlib import Path
from typing import Any

from pynetdicom import AE, AllStoragePresentationContexts, evt


def main(port: int, folder: Path, *, nodelay: bool) -> None:
    """Serve until killed."""
    numbers = count()

    def stored(event: evt.Event) -> int:
        (folder / f"{next(numbers)}.dcm").write_bytes(event.encoded_dataset())
        return 0x0000

    def opened(event: evt.Event) -> None:
        association: Any = event.assoc
        association.dul.socket.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    handlers: list[Any] = [(evt.EVT_C_STORE, stored)]
    if nodelay:
        handlers.append((evt.EVT_CONN_OPEN, opened))
    entity = AE(ae_title="PLAIN")
    entity.maximum_associations = 64
    entity.supported_contexts = AllStoragePresentationContexts
    entity.start_server(("127.0.0.1", port), block=True, evt_handlers=handlers)


if __name__ == "__main__":
    main(int(sys.argv[1]), Path(sys.argv[2]), nodelay="nodelay" in sys.argv[3:])
