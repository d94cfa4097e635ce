"""Specific Character Set (0008,0005): from bytes to text and back, PS3.5 section 6.1 and PS3.3 section C.12.1.1.2.

What cannot be decoded is given with replacement characters: an odd name must not stop a study. What cannot be encoded
is an error: only who writes knows what may stand for it.
"""

import codecs
import re
from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from functools import lru_cache
from typing import Final

from pydicom.charset import CODES_TO_ENCODINGS, STAND_ALONE_ENCODINGS, python_encoding

#: Names of Python codecs, the first for what has no escape sequence.
Encodings = Sequence[str]

#: What a dataset is decoded with that names no character set.
DEFAULT: Final = ("iso8859",)
_ESCAPE: Final = b"\x1b"
#: Escape sequence that designates the set of a codec, PS3.3 tables C.12-3 and C.12-4.
_DESIGNATES: Final = {codec: code for code, codec in CODES_TO_ENCODINGS.items() if codec != DEFAULT[0]}
_FRAGMENT: Final = re.compile(rb"^[^\x1b]+|\x1b[^\x1b]*")
#: Codecs that need the escape sequence itself.
_KEEP_ESCAPE: Final = frozenset({"iso2022_jp", "iso2022_jp_2"})
#: Codecs that write the escape sequence themselves, and the one of the set that they stand for.
_OWN_ESCAPE: Final = {"iso2022_jp": b"\x1b$B", "iso2022_jp_2": b"\x1b$(D"}
_ASCII: Final = bytes(set(range(0x80)) - {0x1B})


def _reads_ascii(codec: str) -> bool:
    try:
        return _ASCII.decode(codec) == _ASCII.decode("ascii")
    except (LookupError, UnicodeError):
        return False


#: Codecs in which plain ASCII without an escape sequence is itself.
_ASCII_COMPATIBLE: Final = frozenset(codec for codec in python_encoding.values() if _reads_ascii(codec))


@lru_cache(maxsize=256)
def encodings(terms: tuple[str, ...]) -> tuple[str, ...]:
    """Give the Python codecs of the values of (0008,0005).

    Parameters
    ----------
    terms
        Defined terms as in PS3.3 tables C.12-2 to C.12-5; common misspellings are understood, and so are names of
        Python codecs. What is unknown counts as the default.
    """
    first = terms[0] or "ISO_IR 6"
    if first in STAND_ALONE_ENCODINGS:
        return (_codec(first),)
    return (_codec(first), *(_codec(term) for term in terms[1:] if term not in STAND_ALONE_ENCODINGS))


def decode(value: bytes, encodings: Encodings, delimiters: AbstractSet[int]) -> str:
    """Decode text with code extensions, PS3.5 section 6.1.2.5.

    Parameters
    ----------
    delimiters
        Characters after which the first character set applies again.
    """
    try:
        if _ESCAPE in value:
            return "".join(_fragment(part, encodings, delimiters) for part in _FRAGMENT.findall(value))
        if encodings[0] in _ASCII_COMPATIBLE and value.isascii():
            return value.decode("ascii")
        return _decoded(value, encodings[0])
    except LookupError:
        # A name of a codec that Python does not have, or one that is no text codec.
        return value.decode("latin-1")
    except ValueError:
        return value.decode("ascii", "replace")


def _fragment(part: bytes, encodings: Encodings, delimiters: AbstractSet[int]) -> str:
    first = encodings[0]
    if not part.startswith(_ESCAPE):
        return _decoded(part, first)
    length = 4 if part.startswith((b"\x1b$(", b"\x1b$)")) else 3
    codec = CODES_TO_ENCODINGS.get(part[:length], "")
    if codec != DEFAULT[0] and codec not in encodings:
        return part.decode(first, "replace")
    try:
        if codec in _KEEP_ESCAPE:
            return part.decode(codec)
        text = part[length:]
        end = next((at for at, code in enumerate(text) if code in delimiters), len(text))
        return text[:end].decode(codec) + (text[end:].decode(first) if end < len(text) else "")
    except UnicodeError:
        return part.decode(first, "replace")


def _decoded(value: bytes, codec: str) -> str:
    try:
        return value.decode(codec)
    except UnicodeError:
        return value.decode(codec, "replace")


def _codec(term: str) -> str:
    if term in python_encoding:
        return python_encoding[term]
    if re.match(r"ISO[^_]IR", term):
        return python_encoding.get("ISO_IR" + term[6:], DEFAULT[0])
    if re.match(r"ISO.2022.IR.", term) and not term.startswith("ISO 2022 IR "):
        return python_encoding.get("ISO 2022 IR " + term[12:], DEFAULT[0])
    try:
        codecs.lookup(term)
    except (LookupError, ValueError):
        return DEFAULT[0]
    return term


def encode(text: str, encodings: Encodings) -> bytes:
    """Encode text that holds no delimiter, with code extensions where there is more than one codec.

    It begins with the first character set in force, and ends with its G0 in force: PS3.5 section 6.1.2.5.3.

    Raises
    ------
    UnicodeEncodeError
        None of them has one of its characters; `start` tells which.
    """
    first = encodings[0]
    if text.isascii() and first in _ASCII_COMPATIBLE:
        return text.encode("ascii")
    parts: list[bytes] = []
    active = first
    for codec, run in _runs(text, encodings):
        part = _encoded(run, codec)
        if codec not in _OWN_ESCAPE and codec != active and not run.isascii():
            part = _DESIGNATES[codec] + part
            active = codec
        parts.append(part)
    return b"".join(parts)


def _runs(text: str, encodings: Encodings) -> list[tuple[str, str]]:
    """Cut a text where another codec is needed; ASCII stays with what is before it, if that has it."""
    runs: list[tuple[str, str]] = []
    for at, character in enumerate(text):
        codec = runs[-1][0] if runs else encodings[0]
        if character.isascii():
            codec = encodings[0]
        elif not _has(codec, character):
            codec = next((each for each in encodings if _has(each, character)), "")
            if not codec:
                raise UnicodeEncodeError(encodings[0], text, at, at + 1, "in none of the character sets")
        if runs and runs[-1][0] == codec:
            runs[-1] = codec, runs[-1][1] + character
        else:
            runs.append((codec, character))
    return runs


@lru_cache(maxsize=4096)
def _has(codec: str, character: str) -> bool:
    try:
        found = _encoded(character, codec)
    except UnicodeEncodeError:
        return False
    # Python's codecs have more than the sets that they stand for, and the yen sign of ISO IR 14 is DICOM's delimiter.
    return found.startswith(_OWN_ESCAPE.get(codec, b"")) and (
        codec != "shift_jis" or (len(found) == 1 and found != b"\\")
    )


def _encoded(text: str, codec: str) -> bytes:
    # "iso8859" is Latin-1 to Python; the Standard's default repertoire is ASCII.
    return text.encode("ascii" if codec == DEFAULT[0] else codec)
