"""Scalars of YAML 1.2: what a plain one means, and where the characters of a text stand in the source."""

import re
from typing import Final

_NULL: Final = re.compile(r"^(?:~|null|Null|NULL|)$")
_TRUE: Final = re.compile(r"^(?:true|True|TRUE)$")
_FALSE: Final = re.compile(r"^(?:false|False|FALSE)$")
_INT: Final = re.compile(r"^[-+]?[0-9]+$|^0o[0-7]+$|^0x[0-9a-fA-F]+$")
_LEADING_ZERO: Final = re.compile(r"^[-+]?0[0-9]")
_FLOAT: Final = re.compile(
    r"^[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?$|^[-+]?\.(?:inf|Inf|INF)$|^\.(?:nan|NaN|NAN)$"
)
_BLOCK_HEADER: Final = re.compile(r"[|>][^\n]*\n?")
_DOUBLED: Final = re.compile("''")
#: An escape of a double-quoted text, YAML 1.2 section 5.7, with as many digits as its kind takes.
_ESCAPE: Final = re.compile(r"\\(?:x[0-9a-fA-F]{2}|u[0-9a-fA-F]{4}|U[0-9a-fA-F]{8}|\r?\n|.)", re.DOTALL)
_BLANK_ESCAPES: Final = frozenset("tnvfr N_LP\t\n\r")
_CODED_ESCAPES: Final = frozenset("xuU")
_MAX_DIGITS: Final = 18


def plain_value(text: str) -> str | int | float | bool | None:
    """Give the value of a scalar without quotes by the core schema, YAML 1.2 section 10.3.2.

    Raises
    ------
    ValueError
        For a number with more digits than fit, or one such as 007.
    """
    if _NULL.match(text):
        return None
    if _TRUE.match(text):
        return True
    if _FALSE.match(text):
        return False
    if _INT.match(text):
        if len(text.lstrip("+-")) > _MAX_DIGITS:
            raise ValueError(f"a number with more than {_MAX_DIGITS} digits")
        if _LEADING_ZERO.match(text):
            # Nobody means the number: its zeros would be lost, and with them the patient ID that it is.
            raise ValueError("a number that starts with a zero")
        return int(text, 0) if text.startswith("0") and text[1:2] in ("o", "x") else int(text)
    if _FLOAT.match(text):
        return float(text.lower().replace(".inf", "inf").replace(".nan", "nan"))
    return text


def visible_offsets(source: str, style: str | None) -> list[int]:
    """Give the offset in the source of each character of a text that isn't white space.

    White space is left out because folding, indentation and chomping change it; nothing else is ever changed.

    Parameters
    ----------
    source
        The scalar as it stands in the file, with quotes or block header.
    style
        As in ruamel.yaml: None (plain), `'`, `"`, `|` or `>`.
    """
    if style == '"':
        return _double_quoted(source)
    offsets = [offset for offset, character in enumerate(source) if not character.isspace()]
    if style == "'":
        skipped = {0, source.rfind("'")} | {match.end() - 1 for match in _DOUBLED.finditer(source, 1, len(source) - 1)}
        return [offset for offset in offsets if offset not in skipped]
    if style in ("|", ">"):
        header = _BLOCK_HEADER.match(source)
        return [offset for offset in offsets if header is None or offset >= header.end()]
    return offsets


def _double_quoted(source: str) -> list[int]:
    offsets = []
    offset, end = 1, source.rfind('"')
    while offset < end:
        escape = _ESCAPE.match(source, offset)
        if escape is None:
            if not source[offset].isspace():
                offsets.append(offset)
            offset += 1
        else:
            if not _is_blank(escape[0]):
                offsets.append(offset)
            offset = escape.end()
    return offsets


def _is_blank(escape: str) -> bool:
    if escape[1] in _CODED_ESCAPES:
        return chr(int(escape[2:], base=16)).isspace()  # noqa: FURB166 - base 0 does not know the prefixes of YAML
    return escape[1] in _BLANK_ESCAPES
