"""What a condition looks up, and how the evaluator is told: as one field, where it is more than a keyword."""

import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final

from contracts.fact import Attributes
from contracts.routing import Trigger
from libs.definition.attributes import CIRCUMSTANCES, OBJECTS, private_key, sequences
from libs.definition.diagnosis import ConditionError, did_you_mean
from libs.definition.expression import Node, Tree
from libs.definition.language import field_of

#: A name in the definition that is fit to be one of a tag.
TAG: Final = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}$")


@dataclass(frozen=True)
class Known:
    """What a network definition names that conditions may ask for.

    Attributes
    ----------
    calendars
        Keys of the calendars.
    destinations
        Keys of the destinations.
    """

    calendars: Collection[str] = ()
    destinations: Collection[str] = ()


@dataclass(frozen=True)
class Lookups:
    """What a condition looks up.

    Attributes
    ----------
    attributes
        Of the trigger's object: keywords, paths, private elements, tags, as in `attributes.type_of`.
    circumstances
        Beside it: `source.site`, `calendars.office`, `destination.pacs`, `clock.time`, `now`.
    """

    attributes: frozenset[str]
    circumstances: frozenset[str]


def united(several: Iterable[Lookups]) -> Lookups:
    """Give all that several conditions look up."""
    all_of_them = list(several)
    return Lookups(
        frozenset().union(*(one.attributes for one in all_of_them)),
        frozenset().union(*(one.circumstances for one in all_of_them)),
    )


def lookups(tree: Tree, trigger: Trigger, known: Known) -> Lookups:
    """Find what is looked up, and put one field in the place of each path, private element and tag.

    Raises
    ------
    ConditionError
        If something is asked for that there is not, or can't be evaluated.
    """
    about = OBJECTS[trigger]
    attributes: dict[str, None] = {}
    circumstances: set[str] = set()
    replaced: list[tuple[Node, str, bool]] = []
    for node in tree.nodes:
        if not node.is_("ident"):
            continue
        name = node.expr.ident.name
        if name in CIRCUMSTANCES:
            circumstances.add(f"{name}.{_part(node, name)}")
        elif name == about:
            whole, key, test = _attribute(node, name)
            attributes[key] = None
            if key != field_of(key):
                replaced.append((whole, key, test))
        elif name == "calendars":
            circumstances.add(f"calendars.{_entry(node, name, known.calendars)}")
        elif name == "destination":
            circumstances.add(f"destination.{_destination(node, known.destinations)}")
        elif name == "now":
            circumstances.add("now")
    for whole, key, test in replaced:
        tree.select(whole, about, field_of(key), test=test)
    return Lookups(frozenset(attributes), frozenset(circumstances))


def _part(node: Node, name: str) -> str:
    parent = node.parent
    if parent is None or not parent.is_("select"):
        raise ConditionError(
            f"`{name}` stands for a group: name one of its parts, `{name}.PART`", node.line, node.column
        )
    return str(parent.expr.select.field)


def _attribute(node: Node, name: str) -> tuple[Node, str, bool]:
    """Give the node that reads an attribute of the object, its key, and whether it only asks for its presence."""
    parent = node.parent
    if parent is not None and parent.is_("call") and parent.expr.call.function == "private":
        return parent, _private(parent), False
    if parent is not None and parent.is_("select") and parent.expr.select.field == "Tags":
        return _tag(parent, name)
    path = [_part(node, name)]
    whole = node.parent
    while whole is not None and path[-1] in sequences():
        above = whole.parent
        if above is None or not above.is_("select"):
            path_so_far = ".".join((name, *path))
            raise ConditionError(
                f"`{path[-1]}` is a sequence: name what stands inside it, `{path_so_far}.KEYWORD`",
                whole.line,
                whole.column + 1,
            )
        path.append(str(above.expr.select.field))
        whole = above
    if whole is None:
        raise LookupError("a selection stands nowhere")
    return whole, ".".join(path), bool(whole.expr.select.test)


def _private(node: Node) -> str:
    creator, element = (one.constant for one in node.expr.call.args)
    if not creator.HasField("string") or not element.HasField("string"):
        raise ConditionError(
            'write creator and element of a private attribute out: `private("CREATOR", "gggg,ee")`',
            node.line,
            node.column,
        )
    key = private_key(creator.string, element.string)
    if key is None:
        raise ConditionError(
            f"`{creator.string}`, `{element.string}` can't be a private element: write its creator, odd group and last "
            'two digits, such as `private("SIEMENS CSA HEADER", "0029,10")`',
            node.line,
            node.column,
        )
    return key


def _tag(tags: Node, name: str) -> tuple[Node, str, bool]:
    """Read `Tags["NAME"]`, `Tags.NAME`, `has(Tags.NAME)` and `"NAME" in Tags`."""
    parent = tags.parent
    key, test = "", False
    if parent is not None and parent.is_("select"):
        key, test = str(parent.expr.select.field), bool(parent.expr.select.test)
    elif parent is not None and parent.is_("call") and parent.expr.call.function == "_[_]":
        key = parent.expr.call.args[1].constant.string
    elif parent is not None and parent.is_("call") and parent.expr.call.function == "@in":
        key, test = parent.expr.call.args[0].constant.string, True
    if parent is None or not TAG.match(key):
        raise ConditionError(
            f'name a tag, `{name}.Tags["NAME"]`, or ask for it, `"NAME" in {name}.Tags`', tags.line, tags.column + 1
        )
    return parent, f"Tags.{key}", test


def _entry(node: Node, kind: str, known: Collection[str]) -> str:
    parent = node.parent
    name = None
    if parent is not None and parent.is_("select"):
        name = parent.expr.select.field
    elif parent is not None and parent.is_("call") and parent.expr.call.function == "_[_]":
        name = parent.expr.call.args[-1].constant.string or None
    one = kind.removesuffix("s")
    if name is None or (parent is not None and parent.is_("select") and parent.expr.select.test):
        raise ConditionError(f'name a {one}, `{kind}["NAME"]`', node.line, node.column)
    if name not in known:
        raise ConditionError(f"there is no {one} `{name}`{did_you_mean(name, known)}", node.line, node.column)
    return str(name)


def _destination(node: Node, known: Collection[str]) -> str:
    name = _entry(node, "destination", known)
    entry = node.parent
    if entry is None or entry.parent is None or not entry.parent.is_("select"):
        raise ConditionError(
            f'ask for the health of a destination, `destination["{name}"].healthy`', node.line, node.column
        )
    return name


def values_read(wanted: Lookups, attributes: Attributes, surroundings: Attributes) -> Attributes:
    """Give what was looked up with its values: attributes by key, then the others by name; absent ones are absent."""
    seen: Attributes = {key: attributes[key] for key in sorted(wanted.attributes) if key in attributes}
    return seen | {name: surroundings[name] for name in sorted(wanted.circumstances) if name in surroundings}
