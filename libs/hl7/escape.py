"""Escape sequences in fields: HL7 v2 chapter 2 section 2.7."""

import re
from typing import Final

from libs.hl7.delimiter import Delimiters

_SPACES: Final = re.compile(r"^\.(sp|br|sk|ce|in|ti|fi|nf)\s*([+-]?\d{0,3})$", re.IGNORECASE)
_HEX: Final = re.compile(r"^[0-9A-Fa-f]+$")
_MOST_LINES: Final = 20


def unescape(text: str, delimiters: Delimiters, codec: str = "utf_8") -> str:
    r"""Give what a part of a field stands for.

    Delimiters, `\Xdd..\` (bytes in the message's character set), `\Cxxyy\` and `\Mxxyyzz\` (code extensions),
    line breaks and indents of formatted text. Highlighting and local sequences leave nothing. What is no sequence,
    such as a path of Windows, stays as it stands.

    Parameters
    ----------
    codec
        Python's codec of the message.
    """
    mark = delimiters.escape
    if not mark or mark not in text:
        return text
    parts = text.split(mark)
    made = [parts[0]]
    at = 1
    while at < len(parts):
        meant = _meaning(parts[at], delimiters, codec) if at + 1 < len(parts) else None
        if meant is None:
            # Not closed, or nothing that is known: the mark is a character like any other.
            made += (mark, parts[at])
            at += 1
        else:
            made += (meant, parts[at + 1])
            at += 2
    return "".join(made)


def escape(text: str, delimiters: Delimiters) -> str:
    """Write a text so that it can stand in a field."""
    mark = delimiters.escape
    if not mark:
        return text
    letters = {mark: "E", delimiters.field: "F", delimiters.component: "S"}
    letters |= {delimiters.repetition: "R", delimiters.subcomponent: "T"}
    letters |= {delimiters.truncation: "P"} if delimiters.truncation else {}
    escaped = "".join(f"{mark}{letters[each]}{mark}" if each in letters else each for each in text)
    return escaped.replace("\r\n", "\n").replace("\r", "\n").replace("\n", f"{mark}.br{mark}")


def _meaning(sequence: str, delimiters: Delimiters, codec: str) -> str | None:
    letters = {
        "F": delimiters.field,
        "S": delimiters.component,
        "T": delimiters.subcomponent or "&",
        "R": delimiters.repetition or "~",
        "E": delimiters.escape,
        "P": delimiters.truncation or "#",
        "H": "",
        "N": "",
    }
    if sequence in letters:
        return letters[sequence]
    if sequence.startswith("."):
        return _formatted(sequence)
    kind, rest = sequence[:1], sequence[1:]
    if kind in ("X", "C", "M") and rest and len(rest) % 2 == 0 and _HEX.match(rest):
        return _bytes(kind, bytes.fromhex(rest), codec)
    if kind == "Z" and len(sequence) > 1:
        return ""
    return None


def _bytes(kind: str, raw: bytes, codec: str) -> str | None:
    if kind == "X":
        return raw.decode(codec, "replace")
    # An escape sequence of ISO 2022, which only says how to read what follows: the codec has taken that already.
    return ""


def _formatted(sequence: str) -> str | None:
    found = _SPACES.match(sequence)
    if found is None:
        return None
    command = found[1].lower()
    number = min(int(found[2].lstrip("+-") or 1), _MOST_LINES)
    if command in ("sp", "br"):
        return "\n" * number
    if command == "ce":
        return "\n"
    return " " * number if command == "sk" else ""
