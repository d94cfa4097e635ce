"""A definition's document as it was read, the place of each of its parts, and what is said to be wrong with it."""

import hashlib
from dataclasses import dataclass, field
from typing import Any, Final

from libs.definition.scalar import visible_offsets

#: Keys and list indices from the top of the document.
Path = tuple[str | int, ...]


@dataclass(frozen=True)
class Problem:
    """One thing that is wrong with a definition, where it stands, and what to do.

    Attributes
    ----------
    file
        Name of the file as the person gave it.
    line, column
        Place in the file, from 1.
    path
        Part of the definition, such as `nodes.CT1.port`; empty for the document as a whole.
    message
        What is wrong.
    hint
        What to do about it; empty where the message says it.
    """

    file: str
    line: int
    column: int
    path: str
    message: str
    hint: str = ""

    def __str__(self) -> str:
        hint = f" ({self.hint})" if self.hint else ""
        part = f"{self.path}: " if self.path else ""
        return f"{self.file}:{self.line}:{self.column}: {part}{self.message}{hint}"


class DefinitionError(Exception):
    """The document can't be used; `problems` says why, in the order of the lines."""

    def __init__(self, problems: list[Problem]) -> None:
        self.problems: Final = sorted(problems, key=lambda problem: (problem.line, problem.column))
        super().__init__("\n".join(map(str, self.problems)))


@dataclass(frozen=True)
class Span:
    """Where a part stands: offsets in the text of its key, its start and its end; style as in ruamel.yaml."""

    key: int | None
    start: int
    end: int
    style: str | None


@dataclass(frozen=True)
class Document:
    """A document that is good YAML; whether it is a good definition is the business of `validation`.

    Attributes
    ----------
    filename
        Name for messages.
    text
        The text as given.
    data
        Plain dicts, lists, str, int, float, bool and None.
    """

    filename: str
    text: str
    data: dict[str, Any]
    spans: dict[Path, Span] = field(repr=False)

    @property
    def sha256(self) -> str:
        """SHA-256 of the text in UTF-8."""
        return hashlib.sha256(self.text.encode()).hexdigest()

    def value_at(self, path: Path) -> tuple[int, int]:
        """Give line and column of a value, or of the nearest part around it that exists."""
        span = self.spans[self.existing(path)]
        nothing_there = span.start == span.end and span.key is not None
        return self.key_at(path) if nothing_there else place(self.text, span.start)

    def key_at(self, path: Path) -> tuple[int, int]:
        """Give line and column of the key of a part, or of the part itself where it has no key."""
        span = self.spans[self.existing(path)]
        return place(self.text, span.start if span.key is None else span.key)

    def inside(self, path: Path, line: int, column: int) -> tuple[int, int]:
        """Give the place in the file of a place inside a text value, whatever quotes or block it is written with.

        Parameters
        ----------
        path
            Path of the text.
        line, column
            Place in the value, from 1.
        """
        span = self.spans[self.existing(path)]
        value: Any = self.data
        for step in self.existing(path):
            value = value[step]
        if not isinstance(value, str):
            return place(self.text, span.start)
        lines = value.split("\n")
        before = "\n".join([*lines[: line - 1], "".join(lines[line - 1 : line])[: column - 1]])
        offsets = visible_offsets(self.text[span.start : span.end], span.style)[: _visible(value)]
        nth = _visible(before)
        if not offsets:
            return place(self.text, span.start)
        offset = offsets[nth] if nth < len(offsets) else offsets[-1] + 1
        return place(self.text, span.start + offset)

    def problem(self, path: Path, message: str, hint: str = "", *, key: bool = False) -> Problem:
        """Say that something is wrong with a part; the place is that of its value, or of its key."""
        line, column = self.key_at(path) if key else self.value_at(path)
        return Problem(self.filename, line, column, dotted(self.existing(path)), message, hint)

    def existing(self, path: Path) -> Path:
        """Shorten a path to what the document has."""
        while path not in self.spans:
            path = path[:-1]
        return path


def dotted(path: Path) -> str:
    """Write a path for people: `nodes.CT1.port`, `rules[2].when`."""
    written = ""
    for step in path:
        written += f"[{step}]" if isinstance(step, int) else f".{step}" if written else step
    return written


def place(text: str, offset: int) -> tuple[int, int]:
    """Give line and column, from 1, of an offset in a text."""
    return text.count("\n", 0, offset) + 1, offset - text.rfind("\n", 0, offset)


def _visible(text: str) -> int:
    return sum(not character.isspace() for character in text)
