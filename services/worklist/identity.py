"""Identifiers for what came without one: the same for the same order, on whatever replica and however often. Pure."""

import hashlib
from typing import Final
from uuid import UUID, uuid5

#: Namespace of our name-based UUIDs (RFC 9562 section 5.5).
_NAMESPACE: Final = UUID("6f1b0c52-3c39-5d8e-9b5f-1f0a51a1c0de")
#: Crockford's base 32: no letter in it is taken for a digit, for people read these numbers aloud.
_LETTERS: Final = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
#: Characters of a value of SH, PS3.5 section 6.2.
SHORT: Final = 16


def study_instance_uid(*name: str) -> str:
    """Make a Study Instance UID of a UUID, PS3.5 section B.2."""
    return f"2.25.{uuid5(_NAMESPACE, _one(name)).int}"


def short_number(letter: str, *name: str) -> str:
    """Make a number of 16 characters (SH): a letter, and 75 bits of a digest."""
    rest = int.from_bytes(hashlib.sha256(_one((letter, *name)).encode(errors="surrogatepass")).digest(), "big")
    digits = []
    for _ in range(SHORT - 1):
        rest, digit = divmod(rest, len(_LETTERS))
        digits.append(_LETTERS[digit])
    return letter + "".join(digits)


def _one(name: tuple[str, ...]) -> str:
    """Make one text of several, so that no two names make the same one."""
    return "".join(f"{len(part)}:{part}" for part in name)
