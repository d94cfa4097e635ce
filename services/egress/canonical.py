"""JSON in one form only, so that the same document always has the same bytes: RFC 8785, without fractions."""

import json
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

#: Larger integers are not the same in every reader of JSON: RFC 8785 section 3.2.2.3, RFC 7493 section 2.2.
_LARGEST = 2**53 - 1


class NotCanonicalError(ValueError):
    """The value has no canonical form here. The text says why, without repeating the value."""


def encode(value: Any) -> bytes:
    """Write a value without whitespace, members in the order of their names (UTF-16 code units), in UTF-8.

    Raises
    ------
    NotCanonicalError
        There is a number with a fraction or beyond 2**53 - 1 in it, half of a surrogate pair, or another type.
    """
    try:
        text = json.dumps(_ordered(value), ensure_ascii=False, allow_nan=False, separators=(",", ":"))
        return text.encode()
    except RecursionError as error:
        raise NotCanonicalError("it is nested too deeply") from error
    except UnicodeEncodeError as error:
        raise NotCanonicalError("a text holds half of a surrogate pair, which UTF-8 cannot say") from error


def decode(content: bytes) -> Any:
    """Read a JSON document in which each member of an object has a name of its own.

    Raises
    ------
    NotCanonicalError
        It is not UTF-8 or not JSON, or an object has two members of one name: readers would differ in which counts.
    """
    try:
        return json.loads(content.decode(), object_pairs_hook=_members, parse_constant=_no_number)
    except UnicodeDecodeError as error:
        raise NotCanonicalError("it is not text in UTF-8") from error
    except json.JSONDecodeError as error:
        raise NotCanonicalError(f"it is not JSON: {error.msg} in line {error.lineno}") from error
    except RecursionError as error:
        raise NotCanonicalError("it is nested too deeply") from error


def _ordered(value: Any) -> Any:
    # Not by `match`: it takes three times as long, and a receipt has hundreds of thousands of values.
    if value is None or isinstance(value, str | bool):
        return value
    if isinstance(value, int) and -_LARGEST <= value <= _LARGEST:
        return value
    if isinstance(value, dict):
        return {name: _ordered(value[name]) for name in _sorted(value)}
    if isinstance(value, list | tuple):
        return [_ordered(each) for each in value]
    raise NotCanonicalError("there is something other than texts, whole numbers, lists and objects in it")


def _sorted(names: Iterable[Any]) -> list[str]:
    if not all(isinstance(name, str) for name in names):
        raise NotCanonicalError("the name of a member is not a text")
    return sorted(names, key=_utf16)


@lru_cache(256)
def _utf16(name: str) -> bytes:
    return name.encode("utf-16-be", "surrogatepass")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    members = dict(pairs)
    if len(members) < len(pairs):
        raise NotCanonicalError("an object has two members of the same name")
    return members


def _no_number(_word: str) -> Any:
    raise NotCanonicalError("it has a number that JSON does not have")
