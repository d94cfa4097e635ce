"""Quantities as people write them in the network definition, kept as whole seconds, bytes and bit/s."""

import re
from decimal import Decimal
from typing import Annotated, Any

from pydantic import BeforeValidator, Field, WithJsonSchema

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800, "y": 31_557_600}
_BYTES = {"B": 1, "kB": 10**3, "MB": 10**6, "GB": 10**9, "TB": 10**12}
_BITS = {"bit/s": 1, "kbit/s": 10**3, "Mbit/s": 10**6, "Gbit/s": 10**9}
_NUMBER = re.compile(r"^\s*(\d{1,15}(?:\.\d{1,6})?)\s*([A-Za-z/]+)\s*$")
_UNIT_OF = {"duration": "seconds", "size": "bytes", "rate": "bit/s"}


def _parse(value: object, units: dict[str, int], what: str, example: str) -> object:
    if isinstance(value, bool):
        raise ValueError(f"true and false are not a {what}: write such as {example}")  # noqa: TRY004 - pydantic wants ValueError
    if not isinstance(value, str):
        return value
    match = _NUMBER.match(value)
    if match is None or match[2] not in units:
        raise ValueError(f"{value!r} is not a {what}: write a number and one of {', '.join(units)}, such as {example}")
    whole = Decimal(match[1]) * units[match[2]]
    if whole != whole.to_integral_value():
        raise ValueError(f"{value!r} is not a whole number of {_UNIT_OF[what]}")
    return int(whole)


def _schema(units: dict[str, int], suffix: str = "") -> WithJsonSchema:
    pattern = rf"^\s*\d+(\.\d+)?\s*({'|'.join(units)}){suffix}\s*$"
    kinds: list[dict[str, Any]] = [{"type": "integer", "exclusiveMinimum": 0}, {"type": "string", "pattern": pattern}]
    return WithJsonSchema({"anyOf": kinds}, mode="validation")


def parse_duration(value: object) -> object:
    """Turn `48h` into seconds; a number passes as seconds. A year is 365.25 days. Raises ValueError."""
    return _parse(value, _SECONDS, "duration", "48h")


def parse_size(value: object) -> object:
    """Turn `20GB` into bytes (decimal units); a number passes as bytes. Raises ValueError."""
    return _parse(value, _BYTES, "size", "20GB")


def parse_rate(value: object) -> object:
    """Turn `2Mbit/s` into bit/s; a number passes as bit/s. Raises ValueError."""
    return _parse(value, _BITS, "rate", "2Mbit/s")


def parse_budget(value: object) -> object:
    """Turn `20GB/day` into bytes a day; a number passes as bytes a day. Raises ValueError."""
    if not isinstance(value, str):
        return parse_size(value)
    size, day, rest = value.strip().rpartition("/day")
    if not day or rest:
        raise ValueError(f"{value!r} is not a budget: write a size a day, such as 20GB/day")
    return parse_size(size)


Seconds = Annotated[int, BeforeValidator(parse_duration), Field(gt=0), _schema(_SECONDS)]
Bytes = Annotated[int, BeforeValidator(parse_size), Field(gt=0), _schema(_BYTES)]
BitsPerSecond = Annotated[int, BeforeValidator(parse_rate), Field(gt=0), _schema(_BITS)]
BytesPerDay = Annotated[int, BeforeValidator(parse_budget), Field(gt=0), _schema(_BYTES, "/day")]
