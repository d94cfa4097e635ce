"""What the model refuses, said in a person's words and with the place in the file."""

import difflib
from collections.abc import Iterable, Mapping
from types import MappingProxyType, UnionType
from typing import Annotated, Any, Final, Union, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from contracts.definition import Definition
from libs.definition.document import Document, Path, Problem

#: Names that pydantic puts into a location for the member of a union that it tried.
_TAGS: Final = frozenset(("bool", "NodeTls", "str", "dict[str,any]"))
#: What a part that may be written in several ways has to be.
_EITHER: Final[Mapping[str, str]] = MappingProxyType(
    {
        "tls": "tls is true, false, or {client: NAME} with the name of a secret",
        "when": "a condition is a CEL text, or a mapping with all, any, not, calendar or DICOM keywords",
    }
)
_KINDS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "model_type": ("a mapping of keys is needed here", "write `key: value` lines, or {key: value}"),
        "model_attributes_type": ("a mapping of keys is needed here", "write `key: value` lines, or {key: value}"),
        "dict_type": ("a mapping of keys is needed here", "write `key: value` lines, or {key: value}"),
        "tuple_type": ("a list is needed here", "write [one, two], or lines that start with a hyphen"),
        "string_type": ("a text is needed here", "put the value in quotes"),
        "string_too_short": ("it must not be empty", ""),
        "too_short": ("at least one is needed", ""),
        "int_type": ("a whole number is needed here", ""),
        "int_parsing": ("a whole number is needed here", ""),
        "int_from_float": ("a whole number is needed here", ""),
        "float_type": ("a number is needed here", ""),
        "float_parsing": ("a number is needed here", ""),
        "bool_type": ("true or false is needed here", ""),
        "bool_parsing": ("true or false is needed here", ""),
    }
)
_LIMITS: Final[Mapping[str, tuple[str, str]]] = MappingProxyType(
    {
        "greater_than": ("gt", "more than"),
        "greater_than_equal": ("ge", "at least"),
        "less_than": ("lt", "less than"),
        "less_than_equal": ("le", "at most"),
    }
)
_LONGEST: Final = 60


def refusals(error: ValidationError, document: Document) -> list[Problem]:
    """Turn all that the model refused into problems, one for each part."""
    said: dict[tuple[Path, str], Problem] = {}
    for detail in error.errors(include_url=False):
        if detail["type"] == "too_short" and detail["input"]:
            continue  # its entries are there, and each is said to be wrong
        problem = _problem(detail, document)
        if problem is not None:
            said.setdefault((_path(detail["loc"], document.data), problem.message), problem)
    return list(said.values())


def alike(name: str, known: Iterable[str]) -> str:
    """Give `did you mean X?`, or an empty text where nothing comes near."""
    known = sorted(known)
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.55)
    if not near:
        lower = {candidate.lower(): candidate for candidate in known}
        near = [lower[name.lower()]] if name.lower() in lower else []
    return f"did you mean {near[0]}?" if near else ""


def _problem(detail: ErrorDetails, document: Document) -> Problem | None:
    path = _path(detail["loc"], document.data)
    last = str(detail["loc"][-1])
    if last == "[key]":
        return document.problem(path, f"{_shown(detail['input'])} cannot be a key here", _fit(detail), key=True)
    if detail["type"] == "missing":
        field = _model_at(path[:-1]).model_fields[last.replace("-", "_")]
        return document.problem(path[:-1], f"{last} is missing", field.description or "", key=True)
    if detail["type"] == "extra_forbidden":
        known = {field.alias or name for name, field in _model_at(path[:-1]).model_fields.items()}
        hint = alike(last, known) or f"known here: {', '.join(sorted(known))}"
        return document.problem(path, f"the key {last} is not known", hint, key=True)
    if _is_other_form(detail, path, document):
        return None
    either = _EITHER.get(str(path[-1])) if _TAGS & set(detail["loc"]) - set(path) else None
    return document.problem(path, *((either, "") if either else _said(detail)))


def _is_other_form(detail: ErrorDetails, path: Path, document: Document) -> bool:
    """Tell whether this is about a form of the part that the person did not mean: a mapping is no mistaken word."""
    tags = [step for step in detail["loc"] if step in _TAGS and step not in path]
    meant_mapping = isinstance(_value(document.data, path), dict)
    return bool(tags) and meant_mapping and tags[0] in ("bool", "str")


def _said(detail: ErrorDetails) -> tuple[str, str]:
    context = detail.get("ctx", {})
    kind = detail["type"]
    shown = _shown(detail["input"])
    if detail["input"] is None:
        said = "nothing is written here", "write a value, or remove the key"
    elif kind == "value_error":
        said = str(context["error"]), ""
    elif kind in _LIMITS:
        limit, words = _LIMITS[kind]
        said = f"{detail['input']} is out of range: it has to be {words} {context[limit]}", ""
    elif kind == "literal_error":
        expected = context["expected"].replace("'", "")
        among = f"one of {expected}" if " or " in expected else expected
        said = f"{shown} is not {among}", _near_literal(detail["input"], expected)
    elif kind == "string_pattern_mismatch":
        said = f"{shown} is not right here", _fit(detail)
    else:
        said = _KINDS.get(kind, (detail["msg"].lower(), ""))
    return said


def _near_literal(value: object, expected: str) -> str:
    return alike(value, expected.replace(" or ", ", ").split(", ")) if isinstance(value, str) else ""


def _fit(detail: ErrorDetails) -> str:
    pattern = detail.get("ctx", {}).get("pattern", "")
    if "2[0-3]" in pattern:
        return 'write a time span such as "08:00-16:00"'
    if "\\\\" in pattern:
        return "an AE title has 1 to 16 characters and no backslash"
    if " _.-" in pattern:
        return "use up to 63 letters, digits, spaces, hyphens, dots and underscores, the first a letter or digit"
    if pattern.startswith("^[^"):
        return f"write one line of up to {pattern.rpartition(',')[2].rstrip('}$')} characters"
    return "use up to 63 letters, digits, hyphens and underscores, the first a letter or digit"


def _shown(value: object) -> str:
    text = value if isinstance(value, str) else repr(value)
    return repr(text if len(text) <= _LONGEST else text[:_LONGEST] + "...")


def _path(location: tuple[int | str, ...], data: Any) -> Path:
    path: list[str | int] = []
    for position, step in enumerate(location):
        present = step in data if isinstance(data, dict) else isinstance(data, list) and isinstance(step, int)
        if present:
            path.append(step)
            data = data[step]
        elif position == len(location) - 1 and step not in _TAGS and step != "[key]":
            path.append(step)
    return tuple(path)


def _value(data: Any, path: Path) -> Any:
    for step in path:
        data = data[step]
    return data


def _model_at(path: Path) -> type[BaseModel]:
    annotation: Any = Definition
    for step in path:
        model = _model_in(annotation)
        if model is not None:
            fields = {field.alias: field.annotation for field in model.model_fields.values()}
            annotation = fields[str(step)]
        else:
            annotation = _element(annotation)
    found = _model_in(annotation)
    if found is None:
        raise LookupError(f"no model at {path}")
    return found


def _members(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) in (Union, UnionType):
        return tuple(inner for member in get_args(annotation) for inner in _members(member))
    if get_origin(annotation) is Annotated:
        return _members(get_args(annotation)[0])
    return (annotation,)


def _model_in(annotation: Any) -> type[BaseModel] | None:
    return next((one for one in _members(annotation) if isinstance(one, type) and issubclass(one, BaseModel)), None)


def _element(annotation: Any) -> Any:
    """Give the annotation of what a dict, tuple holds."""
    for member in _members(annotation):
        origin, arguments = get_origin(member), get_args(member)
        if origin is dict:
            return arguments[1]
        if origin is tuple:
            return arguments[0]
    raise LookupError(f"{annotation} holds nothing")
