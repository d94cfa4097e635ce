"""Says whether a changed schema still keeps the promise of its version: only a new optional field may be added."""

from collections.abc import Iterator
from typing import Any

Schema = dict[str, Any]

#: Words that inform people and change nothing for a program.
_SAID_ONLY = frozenset({"title", "description", "examples", "$defs", "x-personal-data"})


def breaking_changes(published: Schema, current: Schema) -> list[str]:
    """List what a consumer or producer of the published schema would trip over; empty if nothing.

    Parameters
    ----------
    published, current
        JSON Schemas with `$defs`, as pydantic writes them.

    Returns
    -------
    list of str
        One sentence a change, each starting with the path in the document.
    """
    return list(_compare(published, current, published, current, "$"))


def _compare(old: Schema, new: Schema, old_root: Schema, new_root: Schema, path: str) -> Iterator[str]:
    old, new = _resolved(old, old_root), _resolved(new, new_root)
    yield from _compare_properties(old, new, old_root, new_root, path)
    for word in sorted((old.keys() | new.keys()) - _SAID_ONLY - {"properties", "required"}):
        before, after = old.get(word), new.get(word)
        if isinstance(before, dict) and isinstance(after, dict):
            yield from _compare(before, after, old_root, new_root, f"{path}.{word}")
        elif word in {"anyOf", "oneOf", "prefixItems"} and isinstance(before, list) and isinstance(after, list):
            if len(before) != len(after):
                yield f"{path}: {word} had {len(before)} alternatives and now has {len(after)}"
                continue
            for index, (one, other) in enumerate(zip(before, after, strict=True)):
                yield from _compare(one, other, old_root, new_root, f"{path}.{word}[{index}]")
        elif before != after:
            yield f"{path}: {word} was {before!r} and is now {after!r}"


def _compare_properties(old: Schema, new: Schema, old_root: Schema, new_root: Schema, path: str) -> Iterator[str]:
    before, after = old.get("properties", {}), new.get("properties", {})
    for name in before:
        if name not in after:
            yield f"{path}.{name}: the field is gone"
        else:
            yield from _compare(before[name], after[name], old_root, new_root, f"{path}.{name}")
    was, now = set(old.get("required", ())), set(new.get("required", ()))
    for name in sorted(now - was):
        yield f"{path}.{name}: the field is now required"
    for name in sorted((was - now) & after.keys()):
        yield f"{path}.{name}: the field may now be left out"


def _resolved(schema: Schema, root: Schema) -> Schema:
    reference = schema.get("$ref")
    if reference is None:
        return schema
    name = str(reference).removeprefix("#/$defs/")
    definition: Schema = root["$defs"][name]
    return definition | {word: value for word, value in schema.items() if word != "$ref"}
