"""Regular expressions of a definition: RE2, whose time is linear in the text, whatever the expression."""

from functools import lru_cache
from typing import Any, Final

import re2

#: Bytes that one compiled expression may take.
_MEMORY: Final = 1 << 20


class PatternError(ValueError):
    """A text that is no regular expression of RE2, or one too large; the message says why."""


def _options() -> Any:
    options = re2.Options()
    # It would write the expression to standard error.
    options.log_errors = False
    options.max_mem = _MEMORY
    return options


@lru_cache(maxsize=256)
def compiled(find: str) -> Any:
    """Compile an expression. Raises PatternError."""
    try:
        return re2.compile(find, _options())
    except re2.error as error:
        said = error.args[0] if error.args else b""
        words = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        raise PatternError(f"this is not a regular expression (RE2): {words}") from error


def substitute(find: str, replace: str, text: str) -> str:
    """Replace each match in a text. Raises PatternError."""
    try:
        return str(compiled(find).sub(replace, text))
    except (re2.error, IndexError, ValueError) as error:
        raise PatternError(
            "the replacement names a group that the expression has not, or ends with a backslash"
        ) from error
