"""Value representations, PS3.5 section 6.2: their length fields, padding and byte order, and which one is implied."""

from array import array
from functools import lru_cache
from typing import Final

from libs.dicom import dictionary

#: PS3.5 section 7.1.2: those with a length field of 16 bits.
SHORT: Final = frozenset(
    {b"AE", b"AS", b"AT", b"CS", b"DA", b"DS", b"DT", b"FD", b"FL", b"IS", b"LO", b"LT", b"PN", b"SH", b"SL", b"SS"}
    | {b"ST", b"TM", b"UI", b"UL", b"US"}
)
#: Those with a reserved field and a length of 32 bits.
LONG: Final = frozenset({b"OB", b"OD", b"OF", b"OL", b"OV", b"OW", b"SQ", b"SV", b"UC", b"UN", b"UR", b"UT", b"UV"})
KNOWN: Final = SHORT | LONG
#: Longest value, of even length, of a VR with a length field of 16 bits.
LONGEST_SHORT: Final = 0xFFFE
#: How many bytes of a value change places with the byte order, PS3.5 section 7.3; one where it has none.
WORD: Final = {
    **dict.fromkeys(KNOWN, 1),
    **dict.fromkeys((b"AT", b"OW", b"SS", b"US"), 2),
    **dict.fromkeys((b"FL", b"OF", b"OL", b"SL", b"UL"), 4),
    **dict.fromkeys((b"FD", b"OD", b"OV", b"SV", b"UV"), 8),
}
_CODES: Final = {2: "H", 4: "I", 8: "Q"}
_PADDED_BY_SPACE: Final = frozenset(
    {b"AE", b"AS", b"CS", b"DA", b"DS", b"DT", b"IS", b"LO", b"LT", b"PN", b"SH", b"ST", b"TM", b"UC", b"UR", b"UT"}
)


def padding(vr: bytes) -> bytes:
    """Give the byte that makes a value of odd length even."""
    return b" " if vr in _PADDED_BY_SPACE else b"\0"


def swapped(value: bytes, word: int) -> bytes:
    """Change the byte order of words of 1, 2, 4 or 8 bytes. Raises ValueError for a length that is no multiple."""
    if word == 1:
        return value
    words = array(_CODES[word], value)
    words.byteswap()
    return words.tobytes()


@lru_cache(maxsize=8192)
def implied(tag: int) -> bytes:
    """Give the VR of an element that does not say it, by the dictionary (PS3.6); several as there, `US or SS`.

    Private creators are LO (PS3.5 section 7.8.1); other private elements, and what is not listed, are UN (6.2.2).
    """
    group, number = tag >> 16, tag & 0xFFFF
    if group % 2 and 0x10 <= number <= 0xFF:  # noqa: PLR2004 (the block of private creators)
        return b"LO"
    return dictionary.known_vr(tag).encode()
