"""HL7 messages for tests, of which a test says only what matters to it; and a plain MLLP client."""

import socket
from collections.abc import Mapping, Sequence

START, END = b"\x0b", b"\x1c\r"
#: An order of the IHE scheduled workflow, from 2.5.1 on, with one step.
_OMI: Mapping[str, str] = {
    "MSH": r"MSH|^~\&|RIS|MALABO|KIVUKO|HUB|20261120101530||OMI^O23^OMI_O23|M1|P|2.5.1||||||UNICODE UTF-8",
    "PID": "PID|||P1^^^HGM^MR||Nguema^Ana||19700101|F",
    "PV1": "PV1||I|WARD^12|||||1234^Obiang^Juan^^^Dr",
    "ORC": "ORC|NW|PL1^RIS|FI1^RIS||SC",
    "TQ1": "TQ1|1||||||20261120110000||R",
    "OBR": "OBR|1|PL1^RIS|FI1^RIS|CTH^CT Head^99RIS",
    "IPC": "IPC|ACC1|RP1|1.2.826.0.1.3680043.2.1|SPS1|CT|CTH^CT Head^99RIS|||CT1",
}


def message(segments: Sequence[str], *, end: str = "\r", charset: str = "utf-8") -> bytes:
    """Put segments together."""
    return "".join(f"{segment}{end}" for segment in segments).encode(charset)


def order(*, end: str = "\r", charset: str = "utf-8", without: Sequence[str] = (), **segments: str) -> bytes:
    """Make an order; segments by name take the place of those that it has otherwise, or come last."""
    made = {name: text for name, text in {**_OMI, **segments}.items() if name not in without}
    return message(list(made.values()), end=end, charset=charset)


def header(kind: str = "ADT^A08", control_id: str = "M1", version: str = "2.5", **fields: str) -> str:
    """Make MSH; `msh15="AL"` sets a field."""
    made = ["MSH", r"^~\&", "RIS", "MALABO", "KIVUKO", "HUB", "20261120101530", "", kind, control_id, "P", version]
    for name, value in fields.items():
        at = int(name.removeprefix("msh")) - 1
        made += [""] * (at + 1 - len(made))
        made[at] = value
    return "|".join(made)


class Line:
    """A connection to an HL7 port."""

    def __init__(self, address: str) -> None:
        host, _, port = address.rpartition(":")
        self._socket = socket.create_connection((host, int(port)), timeout=30)
        self._rest = b""

    def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        self._socket.sendall(data)

    def ask(self, message: bytes) -> bytes:
        """Send a message in a frame, and give its answer."""
        self.send(START + message + END)
        return self.answer()

    def answer(self) -> bytes:
        """Give the next answer, without its frame; empty at the end of the stream."""
        while END not in self._rest:
            data = self._socket.recv(65_536)
            if not data:
                return b""
            self._rest += data
        found, _, self._rest = self._rest.partition(END)
        assert found.startswith(START)
        return found[1:]

    def close(self) -> None:
        """Close it."""
        self._socket.close()


def fields(answer: bytes, segment: str = "MSA") -> list[str]:
    """Give the fields of an answer's segment, counted from 0 for its name."""
    return next(line.split("|") for line in answer.decode().split("\r") if line.startswith(segment))
