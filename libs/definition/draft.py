"""What can be made of a document, wrong parts left out, so that the rest of it can be checked all the same."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError

from contracts.definition import Definition
from libs.definition.document import Document, Path, Problem
from libs.definition.wording import refusals


@dataclass(frozen=True)
class Draft:
    """A definition of the parts that are right by themselves.

    Attributes
    ----------
    document
        The document, for the places of its parts.
    definition
        The parts that are right.
    names
        Keys by section as the document has them, those of wrong parts included: what refers to a wrong part is
        no second mistake.
    places
        Index in the document of each entry of a section that is a list.
    """

    document: Document
    definition: Definition
    names: Mapping[str, frozenset[str]]
    places: Mapping[str, tuple[int, ...]]

    def has(self, section: str, name: str) -> bool:
        """Tell whether the document has this key in a section."""
        return name in self.names.get(section, frozenset())

    def path(self, section: str, position: int, *inside: str | int) -> Path:
        """Give the path in the document of a part of an entry of a list."""
        return (section, self.places[section][position], *inside)


def draft(document: Document) -> tuple[Draft | None, list[Problem]]:
    """Build the definition; give what is wrong with its parts, and a draft unless nothing could be made of it."""
    sections = {key: _entries(value) for key, value in document.data.items()}
    names = {key: frozenset(map(str, value)) for key, value in sections.items() if isinstance(value, dict)}
    try:
        definition = Definition.model_validate(document.data)
    except ValidationError as error:
        problems = refusals(error, document)
        kept = _without(sections, {detail["loc"] for detail in error.errors(include_url=False)})
        data = {key: _written(value, document.data[key]) for key, value in kept.items()}
        try:
            definition = Definition.model_validate({"kivuko": 1, "name": "unnamed", "sites": {}} | data)
        except ValidationError:
            return None, problems
        return Draft(document, definition, names, _places(kept)), problems
    return Draft(document, definition, names, _places(sections)), []


def _entries(value: Any) -> Any:
    return dict(enumerate(value)) if isinstance(value, list) else value


def _written(value: Any, original: Any) -> Any:
    return list(value.values()) if isinstance(original, list) else value


def _without(sections: dict[str, Any], wrong: set[tuple[int | str, ...]]) -> dict[str, Any]:
    tops = {location[0] for location in wrong if len(location) == 1 or location[0] == "aets"}
    entries = {location[:2] for location in wrong}
    return {
        section: {key: entry for key, entry in value.items() if (section, key) not in entries}
        if isinstance(value, dict)
        else value
        for section, value in sections.items()
        if section not in tops
    }


def _places(sections: dict[str, Any]) -> dict[str, tuple[int, ...]]:
    return {
        key: tuple(value)
        for key, value in sections.items()
        if isinstance(value, dict) and all(isinstance(place, int) for place in value)
    }
