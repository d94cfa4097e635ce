"""The seal of a spool file: what is known of a dataset once its last byte has come, in the file's head.

It stands in our private information (0002,0102) of the file meta information, in a field of fixed width that is blank
until the dataset is whole. So one write and one sync make an arrival durable, and whoever finds the file later can tell
whether it was ever acknowledged, and that it is what was.
"""

import re
from dataclasses import dataclass
from typing import Final

from libs.dicom import part10

#: Keys of the private information.
KEY: Final = "seal"
TRACE_KEY: Final = "traceparent"
_DETAIL: Final = 140
_REASON: Final = 24
_WIDTH: Final = 64 + 1 + 16 + 1 + 4 + 1 + _REASON + 1 + _DETAIL
BLANK: Final = "." * _WIDTH
#: As long as a W3C trace context.
NO_TRACE: Final = "." * 55
#: What JSON would write in other bytes than its own.
_FORBIDDEN: Final = re.compile(r"[^ !#-\[\]-~]")


class UnsealedError(Exception):
    """The file was never finished, so nothing in it was acknowledged."""


class BrokenSealError(Exception):
    """The seal is not one of ours, or does not fit the file: people have to look at it."""


@dataclass(frozen=True)
class Seal:
    """What a dataset turned out to be.

    Attributes
    ----------
    sha256
        Of the dataset's bytes, hexadecimal.
    length
        Of the dataset in bytes.
    status
        Of the response: 0x0000, or why the bytes go to the quarantine.
    reason, detail
        Of the objection; empty without one. A detail is cut to 140 characters.
    """

    sha256: str
    length: int
    status: int
    reason: str = ""
    detail: str = ""

    @property
    def accepted(self) -> bool:
        """Whether the sender was told success."""
        return self.status == 0

    def text(self) -> str:
        """Give the field's value, always of the same width, in characters that JSON leaves alone."""
        detail = _FORBIDDEN.sub("'", self.detail)[:_DETAIL]
        return f"{self.sha256} {self.length:016x} {self.status:04x} {self.reason:<{_REASON}} {detail:<{_DETAIL}}"


def read(text: str) -> Seal:
    """Read a field's value. Raises UnsealedError or BrokenSealError."""
    if text == BLANK:
        raise UnsealedError("the file is not sealed")
    if len(text) != _WIDTH:
        raise BrokenSealError("the seal has another width")
    try:
        sha256, length, status, rest = text.split(" ", 3)
        return Seal(sha256, int(length, 16), int(status, 16), rest[:_REASON].rstrip(), rest[_REASON + 1 :].rstrip())
    except ValueError as error:
        raise BrokenSealError("the seal's figures are damaged") from error


class Head:
    """Everything before the dataset, with its fields blank or filled in.

    Parameters
    ----------
    meta
        File meta information; `seal` and `traceparent` of its private information are put in here, blank.
    """

    def __init__(self, meta: part10.Meta) -> None:
        private = {**meta.private, KEY: BLANK, TRACE_KEY: NO_TRACE}
        self._bytes = bytearray(
            part10.encode(part10.Meta(meta.sop_class_uid, meta.sop_instance_uid, meta.transfer_syntax_uid, private))
        )
        self._seal = _place(self._bytes, KEY, BLANK)
        self._trace = _place(self._bytes, TRACE_KEY, NO_TRACE)

    def __len__(self) -> int:
        return len(self._bytes)

    def fill(self, seal: Seal, traceparent: str) -> tuple[tuple[int, bytes], ...]:
        """Fill the fields in; give what changed as offset and bytes, the seal last, for the head in its file."""
        changes = [(self._seal, seal.text().encode("ascii"))]
        if len(traceparent) == len(NO_TRACE):
            changes.insert(0, (self._trace, traceparent.encode("ascii")))
        for offset, value in changes:
            self._bytes[offset : offset + len(value)] = value
        return tuple(changes)

    def __bytes__(self) -> bytes:
        return bytes(self._bytes)


def _place(head: bytearray, key: str, blank: str) -> int:
    # With the key's own quotes: JSON escapes those within values, so no value of a sender can look like it.
    mark = f'"{key}": "'.encode()
    return head.index(mark + blank.encode()) + len(mark)
