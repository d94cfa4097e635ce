"""Who a dataset says it is, from its first bytes, and how elements are taken out of a source that is read once.

Receivers need nothing else of a header: this module loads neither character sets nor what attributes become in events.
"""

import io
import zlib
from collections.abc import Container
from dataclasses import dataclass
from typing import Final, Protocol

from libs.dicom import tokenizer
from libs.dicom.inflated import Inflated
from libs.dicom.tokenizer import Form, Raw, Rest

#: Transfer syntaxes that are read in their own way, PS3.5 annex A.
IMPLICIT: Final = "1.2.840.10008.1.2"
DEFLATED: Final = "1.2.840.10008.1.2.1.99"
BIG_ENDIAN: Final = "1.2.840.10008.1.2.2"
CHARACTER_SET: Final = 0x00080005
SERIES: Final = 0x0020000E
UIDS: Final = {
    0x00080016: "SOPClassUID",
    0x00080018: "SOPInstanceUID",
    0x0020000D: "StudyInstanceUID",
    SERIES: "SeriesInstanceUID",
}
IDENTITY_TAGS: Final = frozenset({CHARACTER_SET, *UIDS})
#: No real header comes near; neither a sequence nor a deflated dataset is held further, so that none fills the memory.
LONGEST_HEADER: Final = 64 << 20
CHUNK: Final = 1 << 14
_PADDING: Final = " \0"
_EXPLICIT: Final = Form(implicit=False, little_endian=True)
_FORMS: Final = {
    IMPLICIT: Form(implicit=True, little_endian=True),
    BIG_ENDIAN: Form(implicit=False, little_endian=False),
}


class UnreadableDatasetError(Exception):
    """The bytes are not a dataset in the transfer syntax that was negotiated. The text holds no values."""


@dataclass(frozen=True)
class Identity:
    """Who a dataset says it is: as it stands there, empty if absent, not checked."""

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    series_instance_uid: str


class Source(Protocol):
    """What elements are taken out of."""

    def read(self, length: int, /) -> bytes:
        """Give that many bytes; fewer at the end only."""
        ...


def identity(first: bytes | memoryview, transfer_syntax: str) -> Identity | None:
    """Read the identity from the first bytes of a dataset, as soon as it is certain.

    It is certain when all four identifiers stood in their place and the element after them has begun. What it gives
    is what `read` gives. Where it stays None although the dataset is at its end (elements out of order, or absent),
    only `read` tells.

    Parameters
    ----------
    first
        The dataset from its first byte on, however much there is. For a deflated one: the deflated bytes.
    transfer_syntax
        UID of the transfer syntax that was negotiated, PS3.5 section 10.

    Returns
    -------
    Identity or None
        None while more bytes are needed.

    Raises
    ------
    UnreadableDatasetError
        These bytes are not the beginning of a dataset.
    """
    found: dict[int, Raw] = {}
    try:
        if transfer_syntax == DEFLATED:
            source = Inflated(io.BytesIO(first), LONGEST_HEADER)
            data = source.read(CHUNK)
            form = tokenizer.form_of(data, form_said(transfer_syntax))
            _, rest = gather(source, data, 0, found, form, IDENTITY_TAGS, stop=SERIES + 1, needed=SERIES)
        else:
            data = bytes(first)
            form = tokenizer.form_of(data, form_said(transfer_syntax))
            rest = tokenizer.scan(data, 0, found, form, wanted=IDENTITY_TAGS, stop=SERIES + 1)
    except (tokenizer.MalformedError, zlib.error) as error:
        raise unreadable(error) from error
    if rest.tag >= tokenizer.PIXELS and not rest.at:
        raise UnreadableDatasetError("the dataset holds no element before its pixel data")
    if rest.need or not found.keys() >= UIDS.keys():
        return None
    return Identity(*(_uid(found, tag, form) for tag in UIDS))


def _uid(found: dict[int, Raw], tag: int, form: Form) -> str:
    vr, value = found[tag]
    if vr in ("UI", "UN", "") and b"\\" not in value:
        return value.decode("latin-1").strip(_PADDING)
    from libs.dicom import header  # noqa: PLC0415 - hardly any dataset needs it, and receivers do without

    return str(header.attribute_of(found, tag, form) or "")


def gather(
    source: Source,
    data: bytes,
    at: int,
    found: dict[int, Raw],
    form: Form,
    wanted: Container[int] | None,
    *,
    stop: int,
    needed: int,
) -> tuple[bytes, Rest]:
    """Take elements until the stop or the source's end, holding no more than the element at hand needs.

    Nothing is wanted beyond `needed` that would have to be held as a whole: there too long a sequence ends the header.
    Raises UnreadableDatasetError for one before, MalformedError, zlib.error.
    """
    while True:
        rest = tokenizer.scan(data, at, found, form, wanted=wanted, stop=stop)
        if not rest.need:
            return data, rest
        need = rest.need - rest.at
        if need > LONGEST_HEADER and not rest.open:
            # Too long to be held: passed over, as if nobody had asked for it.
            rest = Rest(rest.need, rest.need, rest.tag)
        if rest.at > len(data):
            if not _skipped(source, rest.at - len(data)):
                return data, rest
            data, need = b"", 1
        elif need > LONGEST_HEADER:
            if rest.tag > needed:
                # Such as hours of waveforms in a sequence: all that events carry came before.
                return data, Rest(rest.at, 0, rest.tag)
            raise UnreadableDatasetError("a sequence of its header is longer than 64 MiB")
        else:
            data = data[rest.at :]
        at = 0
        more = source.read(min(max(need, 2 * len(data), CHUNK), LONGEST_HEADER) - len(data))
        if not more:
            return data, Rest(0, need, rest.tag if data else -1)
        data += more


def _skipped(source: Source, length: int) -> bool:
    """Pass over a value; tells whether all of it was there."""
    if isinstance(source, io.IOBase) and source.seekable():
        source.seek(length - 1, io.SEEK_CUR)
        return len(source.read(1)) == 1
    while length and (passed := source.read(min(length, CHUNK))):
        length -= len(passed)
    return length == 0


def form_said(transfer_syntax: str) -> Form:
    """Give the encoding that a transfer syntax stands for, PS3.5 section 10."""
    return _FORMS.get(transfer_syntax, _EXPLICIT)


def unreadable(error: Exception) -> UnreadableDatasetError:
    """Say in a sentence why bytes are no dataset."""
    malformed = isinstance(error, tokenizer.MalformedError)
    why = str(error) if malformed else "it is not deflated, as its transfer syntax says it is"
    return UnreadableDatasetError(f"the dataset cannot be parsed: {why}")
