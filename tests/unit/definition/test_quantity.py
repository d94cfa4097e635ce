"""Quantities as people write them, in the model and in the schema for editors."""

from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from contracts.quantity import BitsPerSecond, Bytes, BytesPerDay, Seconds

pytestmark = pytest.mark.unit

UNITS: list[tuple[Any, str, int]] = [
    (Seconds, "s", 1),
    (Seconds, "m", 60),
    (Seconds, "h", 3600),
    (Seconds, "d", 86_400),
    (Seconds, "w", 604_800),
    (Seconds, "y", 31_557_600),
    (Bytes, "B", 1),
    (Bytes, "kB", 10**3),
    (Bytes, "MB", 10**6),
    (Bytes, "GB", 10**9),
    (Bytes, "TB", 10**12),
    (BitsPerSecond, "bit/s", 1),
    (BitsPerSecond, "kbit/s", 10**3),
    (BitsPerSecond, "Mbit/s", 10**6),
    (BitsPerSecond, "Gbit/s", 10**9),
    (BytesPerDay, "GB/day", 10**9),
    (BytesPerDay, "kB/day", 10**3),
]


@settings(deadline=None)
@given(unit=st.sampled_from(UNITS), number=st.integers(1, 10**9), space=st.sampled_from(["", " "]))
def test_a_number_with_a_unit_is_that_many(unit: tuple[Any, str, int], number: int, space: str) -> None:
    kind, name, factor = unit
    adapter = TypeAdapter(kind)
    written = f"{number}{space}{name}"
    assert adapter.validate_python(written) == number * factor
    assert adapter.validate_python(number * factor) == number * factor
    schema = adapter.json_schema(mode="validation")
    jsonschema.validate(written, schema)
    jsonschema.validate(number * factor, schema)


@pytest.mark.parametrize(
    ("kind", "written", "words"),
    [
        (Seconds, "48 hours", "write a number and one of s, m, h, d, w, y, such as 48h"),
        (Seconds, "-5s", "is not a duration"),
        (Seconds, "0s", "greater than 0"),
        (Seconds, "0.5s", "is not a whole number of seconds"),
        (Seconds, True, "true and false are not a duration"),
        (Seconds, "9" * 400 + "s", "is not a duration"),
        (Bytes, "20gb", "is not a size"),
        (BitsPerSecond, "2MB/s", "is not a rate"),
        (BitsPerSecond, "2mbit/s", "is not a rate"),
        (BytesPerDay, "20GB", "write a size a day, such as 20GB/day"),
        (BytesPerDay, "20GB/day/day", "is not a size"),
        (BytesPerDay, False, "true and false are not a size"),
    ],
)
def test_anything_else_is_refused_with_what_to_write(kind: Any, written: object, words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(kind).validate_python(written)


def test_a_fraction_that_makes_a_whole_number_is_taken() -> None:
    assert TypeAdapter(Seconds).validate_python("1.5h") == 5400
    assert TypeAdapter(BitsPerSecond).validate_python("0.384Mbit/s") == 384_000
