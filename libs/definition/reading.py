"""Reads the text of a network definition: plain data, and for each part the place in the file where it stands."""

import math
import re
from collections.abc import Iterator
from typing import Any, Final

from ruamel.yaml import YAML
from ruamel.yaml.error import MarkedYAMLError, YAMLError
from ruamel.yaml.events import (
    AliasEvent,
    DocumentEndEvent,
    DocumentStartEvent,
    Event,
    MappingEndEvent,
    NodeEvent,
    ScalarEvent,
    SequenceEndEvent,
    SequenceStartEvent,
    StreamEndEvent,
    StreamStartEvent,
)
from ruamel.yaml.reader import ReaderError

from libs.definition.document import DefinitionError, Document, Path, Problem, Span, dotted, place
from libs.definition.scalar import plain_value

__all__ = ("DefinitionError", "Document", "read")

MAX_CHARACTERS: Final = 2_000_000
MAX_DEPTH: Final = 24

_FRAME = (StreamStartEvent, StreamEndEvent, DocumentStartEvent, DocumentEndEvent)
#: What the scanner says of a mistake that people make often, and what to say instead.
_WORDING: Final = (
    (r"found character '\\t'", "a tab stands where YAML allows only spaces", "indent with spaces"),
    (r"found character '(.)' that cannot start", r"a value cannot start with \1", "put the value in quotes"),
    (r"mapping values are not allowed", "a colon stands where no key can be", "mend the indentation, or use quotes"),
    (r"unexpected end of stream", "a quoted text never ends", "close the quotes"),
    (r"'<stream end>'", "the document ends in the middle of a list or mapping", "close the bracket"),
    (r"expected ',' or", "a comma or the closing bracket is missing before this", "check the brackets, or use quotes"),
    (r"unknown escape character", "unknown escape in double quotes", "use single quotes, or double the backslash"),
    (r"could not find expected ':'", "a key has no colon after it", "write `key: value`"),
    (r"expected <block end>", "this line does not belong to the list or mapping above it", "check the indentation"),
    (r"incompatible YAML document", "this version of YAML is not known", "remove the %YAML line"),
)  # fmt: skip


def read(text: str, filename: str = "definition") -> Document:
    """Read YAML 1.2 (core schema, section 10.3 of the specification).

    Anchors, aliases and tags are refused: nobody needs them here, and aliases can make a small document explode.

    Raises
    ------
    DefinitionError
        With one problem, as nothing after it can be trusted.
    """
    text = text.removeprefix("\N{BYTE ORDER MARK}")
    if len(text) > MAX_CHARACTERS:
        raise DefinitionError(
            [
                Problem(
                    filename,
                    1,
                    1,
                    "",
                    f"the document is longer than {MAX_CHARACTERS:,} characters",
                    "is it the right file?",
                )
            ]
        )
    reader = _Reader(text, filename)
    try:
        data = reader.document(iter(YAML(typ="safe", pure=True).parse(text)))
    except ReaderError as error:
        raise reader.error(error.position, f"character U+{error.character:04X} is not allowed", "remove it") from error
    except MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        message, hint = _reworded(error.problem or error.context or "this is not YAML")
        raise reader.error(mark.index if mark else 0, message, hint) from error
    except YAMLError as error:
        raise reader.error(0, "this is not YAML", "check the file") from error
    return Document(filename, text, data, reader.spans)


def _reworded(problem: str) -> tuple[str, str]:
    for pattern, message, hint in _WORDING:
        found = re.search(pattern, problem)
        if found:
            return found.expand(message), hint
    return problem, ""


class _Reader:
    def __init__(self, text: str, filename: str) -> None:
        self.text = text
        self.filename = filename
        self.spans: dict[Path, Span] = {}

    def error(self, offset: int, message: str, hint: str = "", path: Path = ()) -> DefinitionError:
        line, column = place(self.text, offset)
        return DefinitionError([Problem(self.filename, line, column, dotted(path), message, hint)])

    def document(self, events: Iterator[Event]) -> dict[str, Any]:
        data: Any = None
        seen = False
        for event in events:
            if isinstance(event, _FRAME):
                continue
            if seen:
                raise self.error(event.start_mark.index, "a second document starts here", "keep one document in a file")
            data = self.value(event, events, (), None)
            seen = True
        if not isinstance(data, dict):
            raise self.error(
                0, "a network definition is a mapping of keys such as kivuko, name and sites", "start with `kivuko: 1`"
            )
        return data

    def value(self, event: Event, events: Iterator[Event], path: Path, key: int | None) -> Any:
        self.refuse_cleverness(event, path)
        start, end = event.start_mark.index, event.end_mark.index
        self.spans[path] = Span(key, start, end, getattr(event, "style", None))
        if isinstance(event, ScalarEvent):
            return self.scalar(event, path)
        if len(path) >= MAX_DEPTH:
            raise self.error(start, f"more than {MAX_DEPTH} levels inside each other", path=path)
        if isinstance(event, SequenceStartEvent):
            return self.sequence(events, path)
        return self.mapping(events, path)

    def sequence(self, events: Iterator[Event], path: Path) -> list[Any]:
        items: list[Any] = []
        for event in events:
            if isinstance(event, SequenceEndEvent):
                break
            items.append(self.value(event, events, (*path, len(items)), None))
        return items

    def mapping(self, events: Iterator[Event], path: Path) -> dict[str, Any]:
        pairs: dict[str, Any] = {}
        for event in events:
            if isinstance(event, MappingEndEvent):
                break
            self.refuse_cleverness(event, path)
            start = event.start_mark.index
            if not isinstance(event, ScalarEvent) or not event.value:
                raise self.error(
                    start, "a key has to be a word", "put a value that starts with a bracket in quotes", path
                )
            if event.value in pairs:
                first = place(self.text, self.spans[*path, event.value].key or 0)[0]
                raise self.error(
                    start,
                    f"the key {event.value} is here a second time; the first is in line {first}",
                    "remove or rename one",
                    path,
                )
            pairs[event.value] = self.value(next(events), events, (*path, event.value), start)
        return pairs

    def scalar(self, event: ScalarEvent, path: Path) -> Any:
        if event.style is not None:
            return event.value
        try:
            value = plain_value(event.value)
        except ValueError as error:
            raise self.error(event.start_mark.index, str(error), "put it in quotes if it is a text", path) from error
        if isinstance(value, float) and not math.isfinite(value):
            raise self.error(
                event.start_mark.index, f"{event.value} is not a number that can be used here", "put it in quotes", path
            )
        return value

    def refuse_cleverness(self, event: Event, path: Path) -> None:
        start = event.start_mark.index
        if isinstance(event, AliasEvent):
            raise self.error(start, f"aliases (*{event.anchor}) are not used here", "write the value out", path)
        if isinstance(event, NodeEvent) and event.anchor is not None:
            raise self.error(start, f"anchors (&{event.anchor}) are not used here", "remove it", path)
        if getattr(event, "tag", None) is not None:
            raise self.error(
                start,
                "tags (a word that starts with !) are not used here",
                "remove it, or put the text in quotes",
                path,
            )
