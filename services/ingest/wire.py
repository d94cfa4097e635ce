"""What the supervisor and its receivers say to each other: JSON objects, each after its length in 4 bytes.

| to a receiver | |
| --- | --- |
| `configure` | `Setup`; once, first |
| `connection` | `id`, `address`, `port`, `tls`; its socket comes along |
| `drop` | `id`: end a connection that was not admitted |
| `answer` | `call`: the number of what was asked, and the answer |
| `pace` | `seconds` that each C-STORE response is held back |
| `sync` | `number`; answered by `synced` after everything that was said before |
| `stop` | abort every association, and end |

| to the supervisor | |
| --- | --- |
| `ready` | it can take connections |
| `failed` | `reason` why it never will |
| `admit`, `take`, `expect` | asks, with `call` |
| `report` | asks, with `call`, for the `status`: what an archive reports of storage commitment, or `objection` |
| `closed` | asks, with `call`: gives an association's place back; `association`, `how` |
| `spooled` | an arrival is on stable storage; always before its response is sent |
| `dropped` | `id`, `why`, `doubtful`: what was expected is not acknowledged |
| `answered` | a C-STORE response without an arrival |
| `gone` | `id` of a connection that ended; `association`, if it was admitted, and `how` |
| `synced` | `number` |
| `log` | `level`, `event` and the keys of a log line |

Each side reads again and again, whatever else it does, so that neither waits for the other's full buffer: the
supervisor rests for 10 ms after messages that ask nothing, in which a receiver does not fill it.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, Final

from pydantic_core import from_json, to_json

Message = dict[str, Any]

_LENGTH: Final = struct.Struct(">I")
#: The longest, a report of storage commitment of 10 000 instances, has 1.5 MB; what claims more is out of step.
_LONGEST: Final = 1 << 22


class OutOfStepError(Exception):
    """What was read is no message: the two processes are not of the same release, or one has a defect."""

    safe_to_log = True


@dataclass(frozen=True)
class Setup:
    """What a receiver needs to know.

    Attributes
    ----------
    folder
        Its folder in the spool.
    run
        Name of its life, never used before.
    min_free
        Free bytes below which nothing more is taken.
    max_pdu
        Longest P-DATA-TF that is offered, bytes without the header.
    request_timeout, idle_timeout
        Seconds until an association request must be complete, and without a byte on an association.
    objects
        Address of the object store, if an arrival must be there too before it is acknowledged; it may hold a secret.
    store_timeout
        Seconds that the object store may be silent.
    region, instance
        Of the deployment and the replica, for traces.
    tls
        `files` and `profile` of `libs.dimse.tls`, if connections with TLS will come.
    """

    folder: str
    run: str
    min_free: int
    max_pdu: int
    request_timeout: float
    idle_timeout: float
    store_timeout: float
    region: str
    instance: str
    objects: str | None = field(default=None, repr=False)
    tls: dict[str, Any] | None = None


def frame(message: Message) -> bytes:
    """Write a message."""
    body = to_json(message)
    return _LENGTH.pack(len(body)) + body


class Frames:
    """Reads messages from bytes that come in pieces of any size."""

    def __init__(self) -> None:
        self._data = bytearray()
        #: Where the message begins that was not given yet.
        self._at = 0

    def feed(self, data: bytes) -> Iterator[Message]:
        """Take more bytes; give the messages that are whole. Raises OutOfStepError."""
        if self._at:
            del self._data[: self._at]
            self._at = 0
        self._data += data
        whole = len(self._data)
        while whole >= self._at + _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._data, self._at)
            if length > _LONGEST:
                raise OutOfStepError("a message between supervisor and receiver claims more than 4 MiB")
            begin = self._at + _LENGTH.size
            if whole < begin + length:
                return
            self._at = begin + length
            try:
                message = from_json(self._data[begin : self._at])
            except ValueError as error:
                raise OutOfStepError("a message between supervisor and receiver is not JSON") from error
            if not isinstance(message, dict) or "kind" not in message:
                raise OutOfStepError("a message between supervisor and receiver has no kind")
            yield message
