"""Unique identifiers, PS3.5 section 9.1."""

import re
from uuid import uuid4

# Possessive: nothing is ever taken back, so nothing is kept for it.
_FORM = re.compile(r"[0-9]++(?:\.[0-9]++)*+")
_LONGEST = 64

#: Ours, in file meta information: PS3.7 section D.3.3.2.
IMPLEMENTATION_CLASS_UID = "2.25.184726405873326450812927014458930271563"
IMPLEMENTATION_VERSION_NAME = "KIVUKO_1"


def is_valid(uid: str) -> bool:
    """Tell whether the text can serve as an identifier: digits and dots, at most 64 characters.

    Leading zeros in a component break PS3.5 but occur in the field; an identifier is kept as it was received.
    """
    return len(uid) <= _LONGEST and _FORM.fullmatch(uid) is not None


def decode(value: bytes) -> str:
    """Turn the value of an element of VR UI into text, without its padding."""
    return value.decode("ascii", "replace").rstrip("\0 ").lstrip(" ")


def new_uid() -> str:
    """Make an identifier that nobody has: a UUID under 2.25, PS3.5 section B.2."""
    return f"2.25.{uuid4().int}"
