"""Elements that no keyword names, among attributes: private ones by who made them, others by their tag. Pure.

PS3.5 section 7.8.1: a private creator reserves a block of elements, in each dataset another one. So that what several
requests say of one element comes together, it is kept as `(0009,xx01,"ACME")`, and its creator as `(0009,00xx,"ACME")`
with the block that it had last.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

from services.worklist.attributes import Attributes

_OWNED: Final = re.compile(r'\(([0-9A-F]{4}),(00xx|xx([0-9A-F]{2})),"(.*)"\)', re.DOTALL)
_PLAIN: Final = re.compile(r"\(([0-9A-F]{4}),([0-9A-F]{4})\)")
_FIRST_BLOCK: Final = 0x10
_LAST_BLOCK: Final = 0xFF


def is_creator(tag: int) -> bool:
    """Tell whether it is a private creator."""
    return bool(tag & 0x10000) and _FIRST_BLOCK <= tag & 0xFFFF <= _LAST_BLOCK


def blocks(creators: Mapping[int, str]) -> dict[int, str]:
    """Give who reserved each block, by the tag of its first element; a second block of the same creator is left out.

    Parameters
    ----------
    creators
        Values of private creators by tag.
    """
    found: dict[int, str] = {}
    seen: set[tuple[int, str]] = set()
    for tag, name in sorted(creators.items()):
        if name and (tag >> 16, name) not in seen:
            seen.add((tag >> 16, name))
            found[tag & 0xFFFF0000 | (tag & 0xFF) << 8] = name
    return found


def key_of(tag: int, reserved: Mapping[int, str]) -> str:
    """Give the key of an element.

    Parameters
    ----------
    reserved
        What `blocks` says of its dataset.
    """
    group, number = tag >> 16, tag & 0xFFFF
    if is_creator(tag) and (name := reserved.get(tag & 0xFFFF0000 | number << 8)):
        return f'({group:04X},00xx,"{name}")'
    if tag & 0x10000 and (name := reserved.get(tag & 0xFFFFFF00)):
        return f'({group:04X},xx{number & 0xFF:02X},"{name}")'
    return f"({group:04X},{number:04X})"


def creator_of(key: str) -> str | None:
    """Give the key of who made a private element, and of a creator its own; None for what has none."""
    match = _OWNED.fullmatch(key)
    return None if match is None else f'({match[1]},00xx,"{match[4]}")'


def name_of(key: str) -> str | None:
    """Give the name that the key of a creator has; None if it is none of a creator."""
    match = _OWNED.fullmatch(key)
    return match[4] if match is not None and match[2] == "00xx" else None


def tags(attributes: Attributes) -> dict[str, int]:
    """Give the tags that keys have, creators' included: their blocks as before, unless another one is there."""
    found = {key: int(match[1] + match[2], 16) for key in attributes if (match := _PLAIN.fullmatch(key))}
    taken = {tag >> 16 << 8 | _block(tag) for tag in found.values() if tag & 0x10000}
    wanted = {creator: _said(attributes, creator) for creator in _creators(attributes)}
    for creator, block in sorted(wanted.items(), key=lambda each: (each[1], each[0])):
        group = int(creator[1:5], 16)
        free = (one for one in (block, *range(_FIRST_BLOCK, _LAST_BLOCK + 1)) if group << 8 | one not in taken)
        given = next(free, None)
        if given is not None:
            taken.add(group << 8 | given)
            found[creator] = group << 16 | given
    for key in attributes:
        match = _OWNED.fullmatch(key)
        if match is None or match[3] is None:
            continue
        reserves = found.get(creator_of(key) or "")
        if reserves is not None:
            found[key] = reserves & 0xFFFF0000 | (reserves & 0xFF) << 8 | int(match[3], 16)
    return found


def _creators(keys: Iterable[str]) -> set[str]:
    return {creator for key in keys if (creator := creator_of(key)) is not None}


def _said(attributes: Attributes, creator: str) -> int:
    """Give the block that a creator had."""
    value = next(iter(attributes.get(creator, ())), "")
    block = int(value, 16) if isinstance(value, str) and re.fullmatch("[0-9A-F]{2}", value) else _FIRST_BLOCK
    return max(block, _FIRST_BLOCK)


def _block(tag: int) -> int:
    """Give the block that a private tag stands in, or reserves."""
    return tag & 0xFF if is_creator(tag) else tag >> 8 & 0xFF
