"""Datasets in another of the uncompressed transfer syntaxes, PS3.5 annex A, as a stream and without loss.

A destination may accept nothing but Implicit VR Little Endian, which nobody may refuse (PS3.5 section 10.1). Elements
keep their place, value and VR as far as the other syntax can say it; group lengths (gggg,0000), retired, are left out,
and sequences and items get delimiters instead of lengths, so that no second pass is needed.

What no reader has to know is not looked into: an element of VR UN is a string of bytes (PS3.5 section 6.2.2).
"""

from collections.abc import Iterator
from typing import Final

from libs.dicom import reencoding, tokenizer
from libs.dicom.identity import BIG_ENDIAN, DEFLATED, IMPLICIT, Source, form_said
from libs.dicom.inflated import Inflated
from libs.dicom.reencoding import NotReencodableError, Reencoding, Stream
from libs.dicom.tokenizer import Form, MalformedError

__all__ = ["EXPLICIT", "NotReencodableError", "can_reencode", "reencoded"]

EXPLICIT: Final = "1.2.840.10008.1.2.1"
_SOURCES: Final = frozenset({EXPLICIT, DEFLATED, BIG_ENDIAN, IMPLICIT})
_TARGETS: Final = frozenset({EXPLICIT, IMPLICIT})
_NO_LIMIT: Final = 1 << 62


def can_reencode(source: str, target: str) -> bool:
    """Tell whether a dataset in one transfer syntax (UID) can be given in another one."""
    return source in _SOURCES and target in _TARGETS and source != target


def reencoded(file: Source, source: str, target: str) -> Iterator[bytes]:
    """Give a dataset in another transfer syntax, in pieces of about 256 KiB.

    Parameters
    ----------
    file
        Positioned at the dataset's first byte; read to its end, never sought in.
    source, target
        UIDs of transfer syntaxes. Where the first element shows another encoding than `source`, it is read like that.

    Raises
    ------
    ValueError
        `can_reencode` says no.
    NotReencodableError
        While iterating: the dataset contradicts itself or ends too early, is nested more than 64 levels deep, or holds
        what the source's transfer syntax does not allow. Some of it was given already then: it must not be used.
    """
    if not can_reencode(source, target):
        raise ValueError(f"{source} cannot be re-encoded as {target}")
    return _chunks(file, source, implicit=target == IMPLICIT)


def _chunks(file: Source, source: str, *, implicit: bool) -> Iterator[bytes]:
    inflated = Inflated(file, _NO_LIMIT) if source == DEFLATED else None
    stream = Stream(file if inflated is None else inflated)
    first = stream.read(reencoding.AHEAD)
    while first and len(first) < reencoding.HEAD and (more := stream.read(reencoding.AHEAD)):
        first += more
    if not first:
        raise NotReencodableError("the dataset holds no element")
    form = tokenizer.form_of(first, form_said(source))
    if form == Form(implicit=implicit, little_endian=True):
        yield first + stream.read(reencoding.CHUNK)
        while chunk := stream.read(reencoding.CHUNK):
            yield chunk
    else:
        try:
            yield from Reencoding(stream, first, form, implicit=implicit).chunks()
        except MalformedError as error:
            raise NotReencodableError(str(error)) from error
    if inflated is not None and not inflated.whole:
        raise NotReencodableError("the deflated dataset ends before its end is marked")
