"""Free TCP ports that nothing else takes between the choice and the start of a server."""

import random
import socket

#: Below the usual range of outgoing connections (32768 and up), so that no connection takes a reserved port.
_RANGE = range(12_000, 32_000)
_reservations: list[socket.socket] = []


def free_port() -> int:
    """Reserve a free port on loopback for as long as this process lives.

    The reservation is an abstract Unix socket: a second test run on the same machine sees it and chooses another port.
    """
    for port in random.sample(_RANGE, 200):
        reservation = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            reservation.bind(f"\0kivuko-test-port-{port}")
            with socket.socket() as probe:
                probe.bind(("0.0.0.0", port))  # noqa: S104 - some peers bind every address
        except OSError:
            reservation.close()
            continue
        _reservations.append(reservation)
        return port
    raise RuntimeError("no free TCP port between 12000 and 32000 in 200 tries: see `ss -ltn`")
