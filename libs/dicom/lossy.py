"""What the Standard demands of an image that has lost something: PS3.3 sections C.7.6.1.1.5 and C.12.4.

An image that is a lossy version of another one says so in Lossy Image Compression, how much and by what, is DERIVED,
and has a SOP Instance UID of its own. Once set, these marks stay, whatever transfer syntax the image has later.
"""

import re
from collections.abc import Mapping
from typing import Final
from uuid import UUID, uuid5

from libs.dicom import elementhead, syntax
from libs.dicom.explicit import Element, element
from libs.dicom.tokenizer import UNDEFINED

FLAG: Final = 0x00282110
RATIO: Final = 0x00282112
METHOD: Final = 0x00282114
_IMAGE_TYPE: Final = 0x00080008
_SOP_CLASS: Final = 0x00080016
_SOP_INSTANCE: Final = 0x00080018
_DERIVATION: Final = 0x00082111
_SOURCE: Final = 0x00082112
_DERIVATION_CODE: Final = 0x00089215
_FRAME_TYPES: Final = (0x52009229, 0x52009230)
#: Smallest and Largest Image Pixel Value: of the image as it was.
_EXTREMES: Final = (0x00280106, 0x00280107)
#: Room for a ratio that is known only when all frames are written; spaces do not count (PS3.5 section 6.2, DS).
ROOM: Final = 8
_LONGEST_TEXT: Final = 1024
_OURS: Final = UUID("8c4a42c6-7b8e-4b52-9d07-57bb6b4f5c11")
#: PS3.16 CID 7203 and CID 7202.
_LOSSY_COMPRESSION: Final = ("113040", "DCM", "Lossy Compression")
_PREDECESSOR: Final = ("121320", "DCM", "Uncompressed predecessor")
_FRAME_TYPE: Final = re.compile(rb"(\x08\x00\x07\x90CS..)ORIGINAL(?=\\)", re.DOTALL)


def lossy_uid(sop_instance_uid: str, ratio: float) -> str:
    """Give the SOP Instance UID that an image has after lossy compression; always the same one for the same image."""
    return f"2.25.{uuid5(_OURS, f'{sop_instance_uid} {ratio:g}').int}"


def method(transfer_syntax: str) -> str:
    """Give the defined term for a way of compression, PS3.3 section C.7.6.1.1.5.1."""
    if transfer_syntax in syntax.HIGH_THROUGHPUT:
        return "ISO_15444_15"
    if transfer_syntax in syntax.J2K:
        return "ISO_15444_1"
    return "ISO_14495_1" if transfer_syntax in syntax.LS else "ISO_10918_1"


def is_marked(header: Mapping[int, Element]) -> bool:
    """Tell whether an image says that it has lost something."""
    return FLAG in header and header[FLAG].value.strip(b"\0 ") == b"01"


def marks(header: Mapping[int, Element], how: str, ratio: str) -> dict[int, bytes | None]:
    """Give the elements that say that an image has lost something, once more if it had before.

    Parameters
    ----------
    header
        Elements of the dataset.
    how
        Defined term of the method.
    ratio
        How many times smaller it became; stands at the end of its element.
    """
    ratios, methods = _texts(header, RATIO), _texts(header, METHOD)
    methods += [""] * (len(ratios) - len(methods))
    return {
        FLAG: element(FLAG, b"CS", b"01"),
        RATIO: element(RATIO, b"DS", "\\".join([*ratios, ratio]).encode("latin-1")),
        METHOD: element(METHOD, b"CS", "\\".join([*methods, how]).encode("latin-1")),
    }


def derivation(header: Mapping[int, Element], target: str, ratio: float, uid: str) -> dict[int, bytes | None]:
    """Give the elements of an image that is a lossy version of the one that the header describes.

    Parameters
    ----------
    header
        Elements of the dataset that it is made of.
    target, ratio
        Transfer syntax, and how many times smaller it was to be.
    uid
        Its new SOP Instance UID.
    """
    said = header[_DERIVATION].value.rstrip(b"\0 ") + b"; " if _DERIVATION in header else b""
    told = f"lossy compression, {method(target)}, {ratio:g}:1 asked for".encode()
    class_uid, instance_uid = (_raw(header, tag) for tag in (_SOP_CLASS, _SOP_INSTANCE))
    predecessor = b"".join(
        (
            element(0x00081150, b"UI", class_uid),
            element(0x00081155, b"UI", instance_uid),
            _sequence(0x0040A170, _item(_code(_PREDECESSOR))),
        )
    )
    kinds = _texts(header, _IMAGE_TYPE)[1:] or ["SECONDARY"]
    found: dict[int, bytes | None] = {
        **marks(header, method(target), " " * ROOM),
        _IMAGE_TYPE: element(_IMAGE_TYPE, b"CS", "\\".join(["DERIVED", *kinds]).encode("latin-1")),
        _SOP_INSTANCE: element(_SOP_INSTANCE, b"UI", uid.encode()),
        _DERIVATION: element(_DERIVATION, b"ST", (said + told)[-_LONGEST_TEXT:]),
        _SOURCE: _appended(header, _SOURCE, predecessor),
        _DERIVATION_CODE: _appended(header, _DERIVATION_CODE, _code(_LOSSY_COMPRESSION)),
        **dict.fromkeys(_EXTREMES),
    }
    for tag in _FRAME_TYPES:
        if tag in header:
            # As long as before, so that no length of what it stands in changes; a space at the end does not count.
            found[tag] = _FRAME_TYPE.sub(rb"\1DERIVED ", header[tag].raw)
    return found


def _texts(header: Mapping[int, Element], tag: int) -> list[str]:
    text = _raw(header, tag).decode("latin-1")
    return [each.strip() for each in text.split("\\")] if text else []


def _raw(header: Mapping[int, Element], tag: int) -> bytes:
    return header[tag].value.strip(b"\0 ") if tag in header else b""


def _code(code: tuple[str, str, str]) -> bytes:
    value, scheme, meaning = (each.encode() for each in code)
    return element(0x00080100, b"SH", value) + element(0x00080102, b"SH", scheme) + element(0x00080104, b"LO", meaning)


def _item(content: bytes) -> bytes:
    return elementhead.written(elementhead.ITEM, b"", len(content), implicit=True) + content


def _sequence(tag: int, items: bytes) -> bytes:
    return elementhead.written(tag, b"SQ", len(items), implicit=False) + items


def _appended(header: Mapping[int, Element], tag: int, content: bytes) -> bytes:
    """Give a sequence with one more item; one whose encoding is not known is left as it is."""
    if tag not in header:
        return _sequence(tag, _item(content))
    there = header[tag]
    if there.vr != b"SQ":
        return there.raw
    sized = there.raw[8:12] != UNDEFINED.to_bytes(4, "little")
    items = there.value if sized else there.value[: -len(_END)]
    return _sequence(tag, items + _item(content))


_END: Final = elementhead.written(elementhead.SEQUENCE_END, b"", 0, implicit=True)
