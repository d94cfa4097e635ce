"""What changes from one definition to the next, part by part."""

import json
from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

from pydantic import BaseModel, ConfigDict, Field, field_serializer

from contracts.definition import Definition

#: Lists whose entries people know by name, and the order of which is compared apart.
_NAMED: Final = frozenset(("rules", "service-levels"))
#: Parts that are compared piece by piece; what lies deeper, such as a condition, is compared as a whole.
_DEPTH: Final = 3


class Change(BaseModel):
    """One difference.

    `moved` says that named entries stand in another order; old and new are the names that both have.
    """

    model_config = ConfigDict(frozen=True)

    kind: Literal["added", "removed", "changed", "moved"] = Field(description="What happened to the part.")
    path: tuple[str, ...] = Field(description="Where it is: section, key or name, field.")
    old: Any = Field(None, description="What it was; null where it was not there.")
    new: Any = Field(None, description="What it is; null where it is gone.")

    @field_serializer("path")
    def _dotted(self, path: tuple[str, ...]) -> str:
        return ".".join(path)

    def __str__(self) -> str:
        where = ".".join(self.path)
        match self.kind:
            case "added":
                return f"+ {where}: {_shown(self.new)}"
            case "removed":
                return f"- {where}: {_shown(self.old)}"
            case "changed":
                return f"~ {where}: {_shown(self.old)} -> {_shown(self.new)}"
            case "moved":
                return f"~ {where}: order is now {', '.join(self.new)}"


def difference(old: Definition | None, new: Definition) -> list[Change]:
    """Give what changes; empty exactly when the two mean the same. A default that is written out is no difference."""
    before = {} if old is None else plain(old)
    return list(_changes((), before, plain(new)))


def plain(definition: Definition) -> dict[str, Any]:
    """Give a definition as plain data without defaults; entries with names become a mapping by name."""
    data: dict[str, Any] = definition.model_dump(mode="json", by_alias=True, exclude_defaults=True)
    for section in _NAMED & data.keys():
        data[section] = {entry["name"]: entry for entry in data[section]}
    return data


def _changes(path: tuple[str, ...], old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[Change]:
    for key in [*old, *(key for key in new if key not in old)]:
        where = (*path, key)
        section = len(where) == 1 and isinstance(old.get(key, new.get(key)), dict)
        if section and (key not in old or key not in new):
            yield from _changes(where, old.get(key, {}), new.get(key, {}))
        elif key not in new:
            yield Change(kind="removed", path=where, old=old[key])
        elif key not in old:
            yield Change(kind="added", path=where, new=new[key])
        elif isinstance(old[key], dict) and isinstance(new[key], dict) and len(where) < _DEPTH:
            yield from _changes(where, old[key], new[key])
        elif _canonical(old[key]) != _canonical(new[key]):
            yield Change(kind="changed", path=where, old=old[key], new=new[key])
    if len(path) == 1 and path[0] in _NAMED:
        before, after = [key for key in old if key in new], [key for key in new if key in old]
        if before != after:
            yield Change(kind="moved", path=path, old=before, new=after)


def _canonical(value: Any) -> str:
    # By text, because Python takes 1, 1.0 and true for equal, and conditions do not.
    return json.dumps(value, sort_keys=True)


def _shown(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
