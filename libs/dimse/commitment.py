"""Storage commitment, Push Model: what is asked and what is reported, as bytes. PS3.4 annex J.

For one who asks an archive on an association of his own, `libs.dimse.commitment_scu` does the talking. The functions:

- `proposed(context_id) -> Proposed`
- `encode_request(transaction_uid, references, transfer_syntax) -> bytes`
- `action_request(message_id) -> Command`
- `objection(command) -> int | None`
- `decode_report(dataset, transfer_syntax) -> Report`, raises `UnreadableReportError`

Reports are read from peers that may be wrong or hostile: work and memory are bounded by the bytes that came.
"""

import re
import struct
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from libs.dimse import command as commands
from libs.dimse.command import Command
from libs.dimse.negotiation import Proposed

#: Storage Commitment Push Model, and its only instance. PS3.4 sections J.3.1 and J.3.5.
SOP_CLASS: Final = "1.2.840.10008.1.20.1"
SOP_INSTANCE: Final = "1.2.840.10008.1.20.1.1"
IMPLICIT: Final = "1.2.840.10008.1.2"
EXPLICIT: Final = "1.2.840.10008.1.2.1"
#: Transfer syntaxes that are read and written here; the first is every peer's, PS3.5 section 10.1.
TRANSFER_SYNTAXES: Final = (IMPLICIT, EXPLICIT)
#: PS3.4 table J.3-1.
REQUEST_COMMITMENT: Final = 1
#: PS3.4 table J.3-2: all are committed; failures exist.
ALL_COMMITTED: Final = 1
FAILURES_EXIST: Final = 2
#: Most instances that one request asks for, so that a report, which is the answer to one, is never longer.
MOST_INSTANCES: Final = 10_000
#: Bytes of a report with as many, each with all that PS3.4 allows, several times over.
LONGEST_REPORT: Final = 1 << 23
#: Failure Reason (0008,1197) of a failure without one, which type 1 forbids: processing failure, PS3.3 C.14.1.1.
NO_REASON: Final = 0x0110

_TRANSACTION_UID, _FAILED, _REFERENCED = 0x0008_1195, 0x0008_1198, 0x0008_1199
_CLASS, _INSTANCE, _REASON = 0x0008_1150, 0x0008_1155, 0x0008_1197
_READ: Final = frozenset({_TRANSACTION_UID, _FAILED, _REFERENCED, _CLASS, _INSTANCE, _REASON})
_ITEM, _ITEM_END, _SEQUENCE_END = 0xFFFE_E000, 0xFFFE_E00D, 0xFFFE_E0DD
_UNDEFINED: Final = 0xFFFF_FFFF
_TAG_LENGTH: Final = struct.Struct("<HHI")
_SHORT: Final = struct.Struct("<2sH")
_LONG: Final = struct.Struct("<I")
#: VRs with a length of 4 bytes after 2 reserved ones, PS3.5 section 7.1.2, and all others.
_LONG_VRS: Final = frozenset(
    {b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"}
)
_SHORT_VRS: Final = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"}
    | {b"ST", b"TM", b"UI", b"UL", b"US"}
)
#: Sequences within sequences that are read past.
_DEEPEST: Final = 8
_UID: Final = re.compile(r"[0-9]+(\.[0-9]+)*")
_LONGEST_UID: Final = 64
_LENGTH_OF_REASON: Final = 2


class UnreadableReportError(Exception):
    """A report can't be read, or says nothing; the text is a sentence for people, without data of the peer."""

    safe_to_log = True


@dataclass(frozen=True, slots=True, order=True)
class Reference:
    """An instance: SOP class and SOP instance UID."""

    sop_class_uid: str
    sop_instance_uid: str


@dataclass(frozen=True, slots=True, order=True)
class Failure:
    """An instance that the archive does not answer for, and its Failure Reason (0008,1197), PS3.3 section C.14.1.1."""

    sop_class_uid: str
    sop_instance_uid: str
    reason: int


@dataclass(frozen=True)
class Report:
    """What an archive says of a request, PS3.4 section J.3.3.

    Attributes
    ----------
    transaction_uid
        Of the request.
    committed
        Instances that it answers for, each once.
    failed
        Instances that it does not answer for, each once. One that it named in both is here and here only.
    """

    transaction_uid: str
    committed: tuple[Reference, ...]
    failed: tuple[Failure, ...]


def proposed(context_id: int) -> Proposed:
    """Make the presentation context to propose. One who asks needs no role selection: PS3.7 section D.3.3.4."""
    return Proposed(context_id, SOP_CLASS, TRANSFER_SYNTAXES)


def action_request(message_id: int) -> Command:
    """Make the N-ACTION request that goes before `encode_request`, PS3.4 section J.3.2."""
    return commands.action_request(message_id, SOP_CLASS, SOP_INSTANCE, REQUEST_COMMITMENT)


def encode_request(transaction_uid: str, references: Iterable[Reference], transfer_syntax: str) -> bytes:
    """Write what is asked for, PS3.4 table J.3-1.

    Parameters
    ----------
    transaction_uid
        Never used before: reports name it.
    references
        1 to `MOST_INSTANCES` instances.
    transfer_syntax
        One of `TRANSFER_SYNTAXES`.

    Raises
    ------
    ValueError
        No instance, too many, or what is no UID.
    """
    items = [_uids(each, transfer_syntax) for each in references]
    if not 0 < len(items) <= MOST_INSTANCES:
        raise ValueError(f"commitment is asked for 1 to {MOST_INSTANCES} instances at a time, not for {len(items)}")
    return _element(_TRANSACTION_UID, b"UI", _uid(transaction_uid), transfer_syntax) + _sequence(
        _REFERENCED, items, transfer_syntax
    )


def encode_report(report: Report, transfer_syntax: str) -> bytes:
    """Write a report as an archive does, PS3.4 table J.3-2. Raises ValueError for what is no UID."""
    parts = [_element(_TRANSACTION_UID, b"UI", _uid(report.transaction_uid), transfer_syntax)]
    if report.failed:
        failed = [
            _uids(each, transfer_syntax)
            + _element(_REASON, b"US", each.reason.to_bytes(_LENGTH_OF_REASON, "little"), transfer_syntax)
            for each in report.failed
        ]
        parts.append(_sequence(_FAILED, failed, transfer_syntax))
    if report.committed:
        parts.append(
            _sequence(_REFERENCED, [_uids(each, transfer_syntax) for each in report.committed], transfer_syntax)
        )
    return b"".join(parts)


def objection(request: Command) -> int | None:
    """Give the status that refuses an N-EVENT-REPORT request for its command alone, PS3.7 section 10.1.1.1.8."""
    if request.field != commands.N_EVENT_REPORT_RQ:
        return commands.UNRECOGNIZED_OPERATION
    if request.sop_class_uid != SOP_CLASS:
        return commands.NO_SUCH_SOP_CLASS
    if request.sop_instance_uid != SOP_INSTANCE:
        return commands.NO_SUCH_SOP_INSTANCE
    if request.event_type not in (ALL_COMMITTED, FAILURES_EXIST):
        return commands.NO_SUCH_EVENT_TYPE
    return None if request.has_dataset else commands.INVALID_ARGUMENT_VALUE


def decode_report(dataset: bytes, transfer_syntax: str) -> Report:
    """Read a report, PS3.4 table J.3-2.

    The event type is not asked for: an instance counts as what it is listed as, and as failed if it is listed as both.

    Parameters
    ----------
    dataset
        At most `LONGEST_REPORT` bytes.
    transfer_syntax
        One of `TRANSFER_SYNTAXES`.

    Raises
    ------
    UnreadableReportError
        It can't be read as a whole, names no instance or more than `MOST_INSTANCES`, or has what is no UID.
    """
    if len(dataset) > LONGEST_REPORT:
        raise UnreadableReportError(f"the report is longer than {LONGEST_REPORT} bytes")
    if transfer_syntax not in TRANSFER_SYNTAXES:
        raise UnreadableReportError("the report has a transfer syntax that was not agreed on")
    reader = _Reader(dataset, explicit=transfer_syntax == EXPLICIT)
    reader.read()
    failures = [Failure(*_reference(item), _reason(item)) for item in reader.items[_FAILED]]
    failed = {each.sop_instance_uid: each for each in failures}
    committed = {
        uid: Reference(sop_class, uid)
        for sop_class, uid in map(_reference, reader.items[_REFERENCED])
        if uid not in failed
    }
    if not committed and not failed:
        raise UnreadableReportError("the report names no instance")
    transaction = reader.values.get(_TRANSACTION_UID)
    if transaction is None:
        raise UnreadableReportError("the report has no Transaction UID (0008,1195)")
    return Report(_text(transaction), tuple(committed.values()), tuple(failed.values()))


class _Reader:
    """Reads what is wanted, and reads past all else. PS3.5 sections 7.1 and 7.5."""

    def __init__(self, data: bytes, *, explicit: bool) -> None:
        self._data = data
        self._at = 0
        self._explicit = explicit
        self.values: dict[int, bytes] = {}
        self.items: dict[int, list[dict[int, bytes]]] = {_FAILED: [], _REFERENCED: []}

    def read(self) -> None:
        """Read the dataset."""
        self.values = self._elements(len(self._data), open_ended=False, depth=0)

    def _elements(self, end: int, *, open_ended: bool, depth: int) -> dict[int, bytes]:
        """Read elements up to `end`, or up to the item's end before it; give the values that are read."""
        values: dict[int, bytes] = {}
        seen: set[int] = set()
        while self._at < end:
            tag, vr, length = self._head(end)
            if tag == _ITEM_END and open_ended:
                return values
            if tag >> 16 == _ITEM >> 16:
                raise UnreadableReportError("the report has an item outside a sequence")
            if tag in seen:
                raise UnreadableReportError("the report has an element twice")
            if tag in _READ:
                seen.add(tag)
            wanted = self.items.get(tag) if depth == 0 else None
            if length == _UNDEFINED or wanted is not None:
                self._sequence(end, vr, length, wanted, depth + 1)
                continue
            if tag in _READ:
                values[tag] = self._data[self._at : self._at + length]
            self._at += length
        if open_ended:
            raise UnreadableReportError("the report ends within an item")
        return values

    def _sequence(self, end: int, vr: bytes, length: int, into: list[dict[int, bytes]] | None, depth: int) -> None:
        if depth > _DEEPEST:
            raise UnreadableReportError(f"the report has sequences more than {_DEEPEST} deep")
        if self._explicit and vr not in (b"SQ", b"UN"):
            raise UnreadableReportError("the report has an element in place of a sequence")
        was = self._explicit
        # PS3.5 section 6.2.2: a sequence of unknown VR has its items in implicit VR.
        self._explicit = was and vr == b"SQ"
        if length == _UNDEFINED:
            closed = self._items(end, into, depth)
            if not closed:
                raise UnreadableReportError("the report ends within a sequence")
        elif self._items(self._at + length, into, depth):
            raise UnreadableReportError("the report has the end of a sequence that had a length")
        self._explicit = was

    def _items(self, end: int, into: list[dict[int, bytes]] | None, depth: int) -> bool:
        """Read items up to `end`, or up to the sequence's end before it; tell whether there was one."""
        while self._at < end:
            tag, _, length = self._head(end)
            if tag == _SEQUENCE_END:
                return True
            if tag != _ITEM:
                raise UnreadableReportError("the report has something else than an item in a sequence")
            open_ended = length == _UNDEFINED
            item = self._elements(end if open_ended else self._at + length, open_ended=open_ended, depth=depth)
            if into is not None:
                into.append(item)
                if sum(map(len, self.items.values())) > MOST_INSTANCES:
                    raise UnreadableReportError(
                        f"the report names more than {MOST_INSTANCES} instances, which is more than was asked for"
                    )
        return False

    def _head(self, end: int) -> tuple[int, bytes, int]:
        """Read tag, VR (empty without one) and length of what comes, which has to end before `end`."""
        if end - self._at < _TAG_LENGTH.size:
            raise UnreadableReportError("the report ends within an element")
        group, element, length = _TAG_LENGTH.unpack_from(self._data, self._at)
        tag = group << 16 | element
        vr = b""
        if self._explicit and group != _ITEM >> 16:
            vr, length = _SHORT.unpack_from(self._data, self._at + 4)
            if vr in _LONG_VRS:
                self._at += _SHORT.size
                if end - self._at < _TAG_LENGTH.size:
                    raise UnreadableReportError("the report ends within an element")
                (length,) = _LONG.unpack_from(self._data, self._at + 4)
            elif vr not in _SHORT_VRS:
                raise UnreadableReportError("the report has an element of a value representation that nobody knows")
        self._at += _TAG_LENGTH.size
        if length != _UNDEFINED and length > end - self._at:
            raise UnreadableReportError("the report has an element that is longer than what holds it")
        if length == _UNDEFINED and tag in (_ITEM_END, _SEQUENCE_END):
            raise UnreadableReportError("the report has an end without an end")
        return tag, vr, length


def _reference(item: dict[int, bytes]) -> tuple[str, str]:
    sop_class, instance = item.get(_CLASS), item.get(_INSTANCE)
    if sop_class is None or instance is None:
        raise UnreadableReportError("the report names an instance without its SOP class or instance UID")
    return _text(sop_class), _text(instance)


def _reason(item: dict[int, bytes]) -> int:
    value = item.get(_REASON, b"")
    return int.from_bytes(value, "little") if len(value) == _LENGTH_OF_REASON else NO_REASON


def _text(value: bytes) -> str:
    text = value.rstrip(b"\0 ").decode("ascii", "replace")
    if len(text) > _LONGEST_UID or not _UID.fullmatch(text):
        raise UnreadableReportError("the report has what is no UID in place of one")
    return text


def _uid(text: str) -> bytes:
    if len(text) > _LONGEST_UID or not _UID.fullmatch(text):
        raise ValueError("what is no UID can't stand in place of one")
    value = text.encode("ascii")
    return value if len(value) % 2 == 0 else value + b"\0"


def _uids(named: Reference | Failure, transfer_syntax: str) -> bytes:
    return _element(_CLASS, b"UI", _uid(named.sop_class_uid), transfer_syntax) + _element(
        _INSTANCE, b"UI", _uid(named.sop_instance_uid), transfer_syntax
    )


def _sequence(tag: int, items: list[bytes], transfer_syntax: str) -> bytes:
    value = b"".join(_TAG_LENGTH.pack(_ITEM >> 16, _ITEM & 0xFFFF, len(each)) + each for each in items)
    return _element(tag, b"SQ", value, transfer_syntax)


def _element(tag: int, vr: bytes, value: bytes, transfer_syntax: str) -> bytes:
    group, element = tag >> 16, tag & 0xFFFF
    if transfer_syntax == IMPLICIT:
        return _TAG_LENGTH.pack(group, element, len(value)) + value
    if transfer_syntax != EXPLICIT:
        raise ValueError("storage commitment is written in implicit or explicit VR little endian only")
    head = struct.pack("<HH", group, element)
    if vr in _LONG_VRS:
        return head + vr + b"\0\0" + _LONG.pack(len(value)) + value
    return head + _SHORT.pack(vr, len(value)) + value
