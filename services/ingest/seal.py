"""The seal of a spool file: what is known of a dataset once its last byte has come, in the file's head.

It stands in our private information (0002,0102) of the file meta information, in a field of fixed width that is blank
until the dataset is whole. So one write and one sync make an arrival durable, and whoever finds the file later can tell
whether it was ever acknowledged, and that it is what was.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from libs.dicom import uid
from libs.dicom.part10 import Meta, encode

#: Keys of the private information.
KEY: Final = "seal"
TRACE_KEY: Final = "traceparent"
_DETAIL: Final = 140
_REASON: Final = 24
_WIDTH: Final = 64 + 1 + 16 + 1 + 4 + 1 + _REASON + 1 + _DETAIL
BLANK: Final = "." * _WIDTH
#: As long as a W3C trace context.
NO_TRACE: Final = "." * 55
#: (0002,0003), up to its VR.
_INSTANCE: Final = b"\2\0\3\0UI"
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
    content
        Its bytes.
    seal, trace
        Offsets of the two fields.
    """

    def __init__(self, content: bytearray, seal: int, trace: int) -> None:
        self._content = content
        self._seal = seal
        self._trace = trace

    def __len__(self) -> int:
        return len(self._content)

    def __bytes__(self) -> bytes:
        return bytes(self._content)

    def fill(self, seal: Seal, traceparent: str) -> tuple[int, bytes]:
        """Fill the fields in; give what changed as offset and bytes, for the head in its file."""
        end = self._trace + len(NO_TRACE)
        self._content[self._seal : self._seal + _WIDTH] = seal.text().encode("ascii")
        if len(traceparent) == len(NO_TRACE):
            self._content[self._trace : end] = traceparent.encode("ascii")
        # The keys are sorted, so the seal comes first; what stands between the two stays as it is.
        return self._seal, bytes(self._content[self._seal : end])


def head(meta: Meta) -> Head:
    """Make a head; `seal` and `traceparent` of its private information are put in here, blank."""
    private = {**meta.private, KEY: BLANK, TRACE_KEY: NO_TRACE}
    content = bytearray(encode(replace(meta, private=private)))
    return Head(content, _place(content, KEY, BLANK), _place(content, TRACE_KEY, NO_TRACE))


class Heads:
    """Heads that have nearly all in common, as those of an association have: it is encoded once.

    Parameters
    ----------
    provenance
        What the private information of each says.
    """

    def __init__(self, provenance: Mapping[str, str]) -> None:
        self._provenance = provenance
        self._kind: tuple[str, str, int, int, int] | None = None
        self._content = b""
        self._seal = self._trace = 0
        #: Offsets of what is each one's own.
        self._own: tuple[int, ...] = ()

    def make(self, sop_class_uid: str, sop_instance_uid: str, syntax: str, arrival: str, received_at: str) -> Head:
        """Make the next one; `arrival` and `received_at` are printable ASCII without quotes and backslashes."""
        if not uid.is_valid(sop_instance_uid):
            return head(self._meta(sop_class_uid, sop_instance_uid, syntax, arrival, received_at))
        kind = (sop_class_uid, syntax, len(sop_instance_uid), len(arrival), len(received_at))
        if kind != self._kind:
            if not uid.is_valid(sop_class_uid):
                return head(self._meta(sop_class_uid, sop_instance_uid, syntax, arrival, received_at))
            self._learn(self._meta(sop_class_uid, sop_instance_uid, syntax, arrival, received_at))
            self._kind = kind
        content = bytearray(self._content)
        instance = sop_instance_uid.encode("ascii")
        values = (instance, instance, arrival.encode("ascii"), received_at.encode("ascii"))
        for offset, value in zip(self._own, values, strict=True):
            content[offset : offset + len(value)] = value
        return Head(content, self._seal, self._trace)

    def _meta(self, sop_class_uid: str, sop_instance_uid: str, syntax: str, arrival: str, received_at: str) -> Meta:
        private = {
            **self._provenance,
            "arrival": arrival,
            "received_at": received_at,
            "sop_class_uid": sop_class_uid,
            "sop_instance_uid": sop_instance_uid,
        }
        return Meta(sop_class_uid, sop_instance_uid, syntax, private)

    def _learn(self, meta: Meta) -> None:
        content = bytes(head(meta))
        self._content = content
        self._seal, self._trace = _place(content, KEY, BLANK), _place(content, TRACE_KEY, NO_TRACE)
        # No UID before it can look like the element, and its length of 2 bytes follows the VR.
        element = content.index(_INSTANCE) + len(_INSTANCE) + 2
        own = (_place(content, key, meta.private[key]) for key in ("sop_instance_uid", "arrival", "received_at"))
        self._own = (element, *own)


def _place(content: bytes | bytearray, key: str, value: str) -> int:
    # With the key's own quotes: JSON escapes those within values, so no value of a sender can look like it.
    mark = f'"{key}": "'.encode()
    return content.index(mark + value.encode()) + len(mark)
