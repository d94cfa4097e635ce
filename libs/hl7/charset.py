"""From bytes to text by MSH-18: HL7 v2 table 0211, chapter 2 section 2.15.9.18."""

import codecs
import re
from dataclasses import dataclass
from typing import Final

#: Python's codecs of table 0211, and of what is written in its place.
_CODECS: Final = {
    **{f"8859{part}": f"iso8859_{part}" for part in range(1, 17) if part != 12},  # noqa: PLR2004 (there is no part 12)
    "ASCII": "ascii",
    "USASCII": "ascii",
    "ISOIR6": "ascii",
    "ISOIR14": "shift_jis",
    "ISOIR13": "shift_jis",
    "ISOIR87": "iso2022_jp_2",
    "ISOIR159": "iso2022_jp_2",
    "SHIFTJIS": "shift_jis",
    "SJIS": "shift_jis",
    "EUCJP": "euc_jp",
    "KSX1001": "euc_kr",
    "GB180302000": "gb18030",
    "GB18030": "gb18030",
    "GBK": "gbk",
    "GB2312": "gb2312",
    "BIG5": "big5",
    "UNICODE": "utf_8",
    "UNICODEUTF8": "utf_8",
    "UTF8": "utf_8",
    "UNICODEUTF16": "utf_16",
    "UTF16": "utf_16",
    "UNICODEUTF32": "utf_32",
    "UTF32": "utf_32",
    **{f"ISOIR{number}": f"iso8859_{part}" for number, part in ((100, 1), (101, 2), (109, 3), (110, 4), (144, 5))},
    **{f"ISOIR{number}": f"iso8859_{part}" for number, part in ((127, 6), (126, 7), (138, 8), (148, 9), (203, 15))},
    "ISOIR166": "tis_620",
    "ISOIR192": "utf_8",
    "TIS620": "tis_620",
    "WINDOWS31J": "cp932",
    **{f"{name}{number}": f"cp{number}" for name in ("WINDOWS", "CP") for number in range(1250, 1259)},
}
_SIGNATURES: Final = (
    (codecs.BOM_UTF8, "utf_8_sig"),
    (codecs.BOM_UTF32_LE, "utf_32"),
    (codecs.BOM_UTF32_BE, "utf_32"),
    (codecs.BOM_UTF16_LE, "utf_16"),
    (codecs.BOM_UTF16_BE, "utf_16"),
    (b"M\0\0\0", "utf_32_le"),
    (b"\0\0\0M", "utf_32_be"),
    (b"M\0S\0", "utf_16_le"),
    (b"\0M\0S", "utf_16_be"),
)
_ESCAPED: Final = "iso2022_jp_2"
_MSH_18: Final = 17
_HEAD: Final = 4096


class UnknownCharsetError(Exception):
    """MSH-18 names no character set that is known. The text says what to do."""


@dataclass(frozen=True)
class Decoded:
    """A message as text.

    Attributes
    ----------
    text
        With U+FFFD for what could not be decoded.
    codec
        Python's name of the codec; answers are written with it.
    stated
        MSH-18 as the sender wrote it; empty where it stands not there.
    lost
        How many characters could not be decoded.
    """

    text: str
    codec: str
    stated: str
    lost: int


def codec_of(name: str) -> str:
    """Give Python's codec for a name of table 0211, however it is spelt.

    Raises
    ------
    UnknownCharsetError
        The name is not known.
    """
    plain = re.sub(r"[^A-Z0-9]", "", name.upper())
    for known in (plain, plain.removeprefix("ISO"), re.sub(r"^ISO(2022)?IR", "ISOIR", plain)):
        if known in _CODECS:
            return _CODECS[known]
    raise UnknownCharsetError(
        f"MSH-18 names the character set {name[:40]!r}, which is not known: have the sender use one of HL7 table 0211, "
        "such as UNICODE UTF-8 or 8859/1"
    )


def decode(raw: bytes, default: str, *, always: bool = False) -> Decoded:
    """Decode a message by MSH-18, or by its first bytes where they are UTF-16, UTF-32 or marked as UTF-8.

    Parameters
    ----------
    raw
        One message, from `MSH` or a byte order mark on.
    default
        Name of the character set where MSH-18 is missing or empty.
    always
        Whether `default` holds whatever MSH-18 says.

    Raises
    ------
    UnknownCharsetError
        MSH-18, or `default`, is not known.
    """
    by_signature = next((codec for mark, codec in _SIGNATURES if raw.startswith(mark)), None)
    stated = "" if by_signature is not None and "utf_8" not in by_signature else _stated(raw)
    codec = by_signature or _codec(stated, default, always=always)
    try:
        return Decoded(raw.decode(codec), codec, stated, 0)
    except UnicodeError:
        # A character that cannot be read must not hide that it was there.
        text = raw.decode(codec, "replace")
        return Decoded(text, codec, stated, text.count("\N{REPLACEMENT CHARACTER}"))


def _stated(raw: bytes) -> str:
    """Give MSH-18 as it stands, by bytes: its characters are ASCII in all sets that have no signature."""
    head = re.split(rb"[\r\n]", raw[raw.find(b"MSH") :][:_HEAD], maxsplit=1)[0]
    fields = head.split(head[3:4]) if len(head) > 3 else []  # noqa: PLR2004 (after MSH)
    return fields[_MSH_18].decode("latin-1").strip() if len(fields) > _MSH_18 else ""


def _codec(stated: str, default: str, *, always: bool) -> str:
    # Repetitions: the first is what a message starts in, the others are reached by escape sequences, ISO 2022.
    names = [name.strip() for name in re.split(r"[~\\]", default if always or stated in ("", '""') else stated)]
    codecs_of = [codec_of(name) for name in names if name]
    if _ESCAPED in codecs_of:
        # ASCII, or JIS X 0201 as its twin: this codec has both.
        return _ESCAPED
    return codecs_of[0] if codecs_of else "ascii"
