"""The minimal lower layer protocol: HL7 v2 transport specification, MLLP release 1. Bytes to frames and back."""

from dataclasses import dataclass, field
from typing import Final, Literal

START: Final = b"\x0b"
END: Final = b"\x1c\r"
_BETWEEN: Final = b"\r\n \t\0\x1c"
_OPENINGS: Final = (b"MSH", b"FHS", b"BHS")
#: Bytes before a frame that are skipped before the line is given up.
MOST_NOISE: Final = 1024

Oddity = Literal["truncated", "noise", "no start"]


@dataclass
class Frames:
    """Takes bytes as they come and gives whole frames; for one connection.

    Parameters
    ----------
    longest
        Bytes of a frame, at most.

    Attributes
    ----------
    oddities
        What was met besides frames, in order; for whoever reads to take away.
    broken
        Why nothing more can be taken from this connection, as a sentence; frames before that are given all the same.
    """

    longest: int
    oddities: list[Oddity] = field(default_factory=list)
    broken: str = ""
    _buffer: bytearray = field(default_factory=bytearray)
    _inside: bool = False
    _looked: int = 0
    _noise: int = 0

    @property
    def pending(self) -> int:
        """Bytes of a frame that has begun and not ended."""
        return len(self._buffer) if self._inside else 0

    @property
    def open(self) -> bool:
        """Whether a frame has begun."""
        return self._inside

    def feed(self, data: bytes) -> list[bytes]:
        """Take bytes; give the contents of the frames that end in them.

        A frame that begins before the one before has ended leaves that one out: it was cut off, and is not answered,
        so that its sender sends it again.
        """
        self._buffer += data
        found: list[bytes] = []
        while not self.broken:
            if not self._inside and not self._begin():
                break
            frame = self._take()
            if frame is None:
                break
            found.append(frame)
        if self.broken:
            self._buffer.clear()
            self._inside = False
        return found

    def _begin(self) -> bool:
        buffer = self._buffer
        start = 0
        while start < len(buffer) and buffer[start] in _BETWEEN:
            start += 1
        del buffer[:start]
        if not buffer:
            return False
        if buffer.startswith(START):
            del buffer[:1]
        elif any(buffer.startswith(opening) for opening in _OPENINGS):
            self.oddities.append("no start")
        elif any(opening.startswith(bytes(buffer)) for opening in _OPENINGS):
            return False
        else:
            return self._skip()
        self._inside, self._looked, self._noise = True, 0, 0
        return True

    def _skip(self) -> bool:
        at = self._buffer.find(START)
        if self._noise == 0:
            self.oddities.append("noise")
        self._noise += at if at >= 0 else len(self._buffer)
        if self._noise > MOST_NOISE or self._buffer.startswith((b"\x16\x03", b"GET ", b"POST ")):
            self.broken = _looks_like(bytes(self._buffer[:8]))
            return False
        del self._buffer[: at if at >= 0 else len(self._buffer)]
        return self._begin() if at >= 0 else False

    def _take(self) -> bytes | None:
        buffer = self._buffer
        wide = b"\0" in buffer[:4] or buffer.startswith((b"\xff\xfe", b"\xfe\xff"))
        self._leave_out_truncated(wide=wide)
        end = buffer.find(END if wide else END[:1], self._looked)
        if end < 0:
            self._looked = max(0, len(buffer) - 4)
        if max(end, self._looked) > self.longest:
            self.broken = f"a message is longer than {self.longest:,} bytes"
        if end < 0 or self.broken:
            return None
        frame = bytes(buffer[:end])
        del buffer[: end + 1]
        self._inside = False
        return frame

    def _leave_out_truncated(self, *, wide: bool) -> None:
        if wide:
            return
        end = self._buffer.find(END[:1], self._looked)
        until = len(self._buffer) if end < 0 else end
        for opening in _OPENINGS:
            again = self._buffer.rfind(START + opening, self._looked, until)
            if again >= 0:
                self.oddities.append("truncated")
                del self._buffer[: again + 1]
                self._looked = 0
                until = len(self._buffer) if end < 0 else end - again - 1


def framed(message: bytes) -> bytes:
    """Put a message into a frame."""
    return START + message + END


def _looks_like(first: bytes) -> str:
    if first.startswith(b"\x16\x03"):
        return "the caller speaks TLS on the port without TLS: have it call the port of KIVUKO_HL7_TLS_PORT"
    if first[:4] in (b"GET ", b"POST", b"PUT ", b"HEAD"):
        return "the caller speaks HTTP: this port takes HL7 over MLLP"
    if first[:2] == b"\x01\x00":
        return "the caller speaks DICOM: this port takes HL7 over MLLP"
    return "what comes is no HL7 over MLLP: a message is put between the bytes 0B and 1C 0D"
