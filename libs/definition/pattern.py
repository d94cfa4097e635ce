"""Regular expressions of a definition: RE2, whose time is linear in the text, whatever the expression."""

import re
from functools import lru_cache
from typing import Any, Final

import re2

#: Bytes that one compiled expression may take, with what it keeps between texts: as much as RE2 takes by itself.
_MEMORY: Final = 8 << 20
#: A group in a replacement: by number, or by name.
_REFERENCE: Final = re.compile(r"\\\\|\\([0-9]{1,2})|\\g<(\w{1,99})>")
_ENDS_OPEN: Final = re.compile(r"(?<!\\)(?:\\\\)*\\$")


class PatternError(ValueError):
    """A text that is no regular expression of RE2, or one too large; the message says why."""


def _options() -> Any:
    options = re2.Options()
    # It would write the expression to standard error.
    options.log_errors = False
    options.max_mem = _MEMORY
    return options


@lru_cache(maxsize=1024)
def compiled(find: str) -> Any:
    """Compile an expression. Raises PatternError."""
    try:
        return re2.compile(find, _options())
    except re2.error as error:
        said = error.args[0] if error.args else b""
        words = said.decode(errors="replace") if isinstance(said, bytes) else str(said)
        raise PatternError(f"this is not a regular expression (RE2): {words}") from error


def check(find: str, replace: str) -> None:
    """See that matches of an expression can be replaced by a text. Raises PatternError."""
    known = compiled(find)
    names = {*map(str, range(known.groups + 1)), *known.groupindex}
    for found in _REFERENCE.finditer(replace):
        name = found[1] or found[2]
        if name is not None and name not in names:
            raise PatternError(f"the replacement names a group {name} that the expression has not")
    if _ENDS_OPEN.search(replace):
        raise PatternError("the replacement ends with a backslash: write two of them for one")


def substitute(find: str, replace: str, text: str) -> str:
    """Replace each match in a text. Raises PatternError."""
    known = compiled(find)
    try:
        return str(known.sub(replace, text))
    except (re2.error, IndexError, ValueError) as error:
        raise PatternError("its matches can't be replaced by this text") from error
