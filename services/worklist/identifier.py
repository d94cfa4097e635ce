"""The identifier of a C-FIND request as keys, PS3.4 section K.4.1.1.3.1. Pure."""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

from libs.dicom import charset, dictionary, element, tokenizer
from libs.dicom.charset import Encodings
from libs.dicom.document import encodings_of
from libs.dicom.tokenizer import Form, MalformedError, Raw

IMPLICIT: Final = "1.2.840.10008.1.2"
CHARACTER_SET: Final = 0x0008_0005
_DEEPEST: Final = 8
_NUMBERS: Final = frozenset({"US", "SS", "UL", "SL", "UV", "SV", "FL", "FD", "AT"})
#: One value, in which a backslash is a character like others: PS3.5 table 6.2-1.
_ONE_TEXT: Final = frozenset({"LT", "ST", "UT", "UR"})
#: No values of these are ever asked for.
_BINARY: Final = frozenset({"OB", "OD", "OF", "OL", "OV", "OW", "UN"})
_BY_CHARACTER_SET: Final = frozenset({"LO", "LT", "PN", "SH", "ST", "UC", "UT"})
#: What resets the character set within a value, PS3.5 section 6.1.2.5.3.
_DELIMITERS: Final = frozenset({0x0D, 0x0A, 0x09, 0x0C, 0x5C})
_PN_DELIMITERS: Final = _DELIMITERS | {0x5E, 0x3D}


class UnreadableError(Exception):
    """The identifier is no dataset in its transfer syntax. The text is a sentence without values."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key.

    Attributes
    ----------
    tag, vr
        PS3.6; the VR that the dictionary knows, else the one that the request says.
    values
        What is asked for, without padding; empty values are left out. None: all match.
    items
        Of a sequence the keys within; none for no sequence.
    """

    tag: int
    vr: str
    values: tuple[str, ...] = ()
    items: tuple[tuple["Key", ...], ...] | None = None

    @property
    def keyword(self) -> str:
        """Its keyword, or its tag if it has none."""
        return _name(self.tag)


@lru_cache(maxsize=4096)
def _name(tag: int) -> str:
    return dictionary.keyword_of(tag) or f"({tag >> 16:04X},{tag & 0xFFFF:04X})"


def decode(data: bytes, syntax: str) -> tuple[Key, ...]:
    """Read an identifier in implicit or explicit VR, little endian.

    Specific Character Set says how the other keys are written, and is none itself.

    Raises
    ------
    UnreadableError
        It can't be read.
    """
    said = Form(implicit=syntax == IMPLICIT, little_endian=True)
    form = tokenizer.form_of(data, said)
    found: dict[int, Raw] = {}
    try:
        rest = tokenizer.scan(data, 0, found, form, stop=1 << 32)
        if rest.at != len(data):
            raise UnreadableError("the identifier ends inside an element")
        return _keys(found, form, charset.DEFAULT, 0)
    except MalformedError as error:
        raise UnreadableError(f"the identifier can't be read: {error}") from error


def _keys(found: dict[int, Raw], form: Form, parent: Encodings, depth: int) -> tuple[Key, ...]:
    if depth > _DEEPEST:
        raise UnreadableError(f"the identifier has more than {_DEEPEST} sequences within each other")
    encodings = encodings_of(found, form, parent)
    keys = []
    for tag in sorted(found):
        # Group lengths are retired, PS3.5 section 7.2.
        if tag == CHARACTER_SET or not tag & 0xFFFF:
            continue
        said, value = found[tag]
        vr = _vr(tag, said)
        if vr == "SQ":
            items = tuple(_keys(item, own, encodings, depth + 1) for item, own in tokenizer.items(value, form))
            keys.append(Key(tag, vr, items=items))
        else:
            keys.append(Key(tag, vr, _values(vr, value, encodings)))
    return tuple(keys)


def _vr(tag: int, said: str) -> str:
    known = dictionary.known_vr(tag).partition(" or ")[0]
    if known == "UN":
        return said or "UN"
    # A sequence that is said to be something else has no items that could be read.
    return said if known == "SQ" and said not in ("", "UN", "SQ") else known


def _values(vr: str, value: bytes, encodings: Encodings) -> tuple[str, ...]:
    if vr in _BINARY:
        return ()
    if vr in _NUMBERS:
        return tuple(str(each) for each in element.values(vr, value, encodings, little_endian=True))
    if vr in _BY_CHARACTER_SET:
        text = charset.decode(value, encodings, _PN_DELIMITERS if vr == "PN" else _DELIMITERS)
    else:
        text = value.decode("latin-1")
    parts = [text] if vr in _ONE_TEXT else text.split("\\")
    return tuple(stripped for part in parts if (stripped := part.strip(element.PADDING)))
