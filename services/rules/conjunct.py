"""The parts of a condition that must all hold: what stands between the `&&` of its top level. Pure.

Of CEL (language definition, "Syntax") only strings, comments and brackets are read: what joins more loosely than `&&`
outside of brackets, `||` and `? :`, leaves the condition whole.
"""

import re
from typing import Final

_TOKEN: Final = re.compile(
    r"""(?P<comment>//[^\n]*)
    |(?P<text>[bB]?(?:[rR](?:\"{3}.*?\"{3}|'{3}.*?'{3}|"[^"\n]*"|'[^'\n]*')
        |\"{3}(?:\\.|.)*?\"{3}|'{3}(?:\\.|.)*?'{3}|"(?:\\.|[^"\\\n])*"|'(?:\\.|[^'\\\n])*'))
    |(?P<and>&&)|(?P<loose>\|\||\?)|(?P<open>[(\[{])|(?P<close>[)\]}])
    |(?P<word>\w+)|(?P<other>.)""",
    re.VERBOSE | re.DOTALL,
)


def conjuncts(text: str) -> list[str]:
    """Split a condition that is known to be valid; give it whole where it can't be split."""
    parts, begin, depth = [], 0, 0
    for token in _TOKEN.finditer(text):
        match token.lastgroup:
            case "open":
                depth += 1
            case "close":
                depth -= 1
            case "loose" if depth == 0:
                return _within_brackets(text)
            case "and" if depth == 0:
                parts.append(text[begin : token.start()])
                begin = token.end()
    if not parts:
        return _within_brackets(text)
    return [one for part in (*parts, text[begin:]) for one in conjuncts(part)]


def _within_brackets(text: str) -> list[str]:
    """Look inside brackets that hold all of a part, as structured conditions are written."""
    bare = text.strip()
    if not (bare.startswith("(") and bare.endswith(")")):
        return [text]
    depth = 0
    for token in _TOKEN.finditer(bare):
        depth += (token.lastgroup == "open") - (token.lastgroup == "close")
        if depth == 0 and token.end() < len(bare):
            return [text]
    inner = conjuncts(bare[1:-1])
    return inner if len(inner) > 1 else [text]
