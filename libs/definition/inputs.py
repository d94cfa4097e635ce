"""What conditions see, and how it is handed to the evaluator."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import lru_cache
from typing import Any, Self

from contracts.fact import Attributes
from contracts.routing import Trigger
from libs.definition.attributes import CIRCUMSTANCES, MOST_CHARACTERS, OBJECTS, readable
from libs.definition.language import evaluating, field_of
from libs.definition.lookup import Lookups


@dataclass(frozen=True)
class Inputs:
    """What conditions see. All of it is a snapshot of the moment of the decision.

    Attributes
    ----------
    now
        The moment, with its offset.
    instance, series, study
        Value by keyword, path into sequences, private element or tag, as `attributes.type_of` knows them: one of the
        three, as the trigger says.
    source, order, site, procedure, clock
        Texts by the names in `CIRCUMSTANCES`.
    calendars
        Calendar to whether it is working time.
    destinations
        Destination to whether it is healthy; of what is not said, nothing bad is known.
    """

    now: datetime
    instance: Attributes = field(default_factory=dict)
    series: Attributes = field(default_factory=dict)
    study: Attributes = field(default_factory=dict)
    source: Mapping[str, str] = field(default_factory=dict)
    order: Mapping[str, str] = field(default_factory=dict)
    site: Mapping[str, str] = field(default_factory=dict)
    procedure: Mapping[str, str] = field(default_factory=dict)
    clock: Mapping[str, str] = field(default_factory=dict)
    calendars: Mapping[str, bool] = field(default_factory=dict)
    destinations: Mapping[str, bool] = field(default_factory=dict)

    def of(self, trigger: Trigger) -> Attributes:
        """Give the attributes of the trigger's object; an order or a procedure has none."""
        found: Attributes = {} if OBJECTS[trigger] in CIRCUMSTANCES else getattr(self, OBJECTS[trigger])
        return found

    def having(self, **values: Any) -> Self:
        """Give a copy with other values. `dataclasses.replace` takes ten times as long, and a replay makes millions."""
        made = object.__new__(type(self))
        made.__dict__.update(self.__dict__, **values)
        return made

    def surroundings(self, names: Collection[str]) -> Attributes:
        """Give what is beside the attributes by name, `source.site` or `calendars.office`, as people read it."""
        seen: Attributes = {}
        for name in sorted(names):
            group, _, part = name.partition(".")
            if group == "now":
                seen[name] = self.now.isoformat()
            elif group == "calendars":
                seen[name] = "working time" if self.calendars.get(part, False) else "not working time"
            elif group == "destination":
                seen[name] = "healthy" if self.destinations.get(part, True) else "not healthy"
            elif part in getattr(self, group):
                seen[name] = getattr(self, group)[part]
        return seen


@dataclass(frozen=True)
class Bound:
    """Inputs in the form in which any number of conditions can be evaluated on them.

    Attributes
    ----------
    activation
        The CEL library's form.
    values
        The attributes as conditions see them.
    unreadable
        What is there and can't be read, with the reason: it counts as absent.
    """

    activation: Any
    values: Attributes
    unreadable: Mapping[str, str]


def bind(inputs: Inputs, trigger: Trigger, scope: Lookups) -> Bound:
    """Bring what a scope reads into the form for evaluation."""
    language = evaluating(trigger, scope.attributes)
    about = OBJECTS[trigger]
    values, unreadable = readable(inputs.of(trigger), trigger, scope.attributes)
    data: dict[str, Any] = {}
    if about not in CIRCUMSTANCES:
        data[about] = language.messages[about](**{field_of(key): value for key, value in values.items()})
    for group, names in _groups(scope.circumstances).items():
        if group == "now":
            data[group] = inputs.now
        elif group == "calendars":
            data[group] = {name: inputs.calendars.get(name, False) for name in names}
        elif group == "destination":
            health = language.messages[group]
            data[group] = {name: health(healthy=inputs.destinations.get(name, True)) for name in names}
        else:
            given = getattr(inputs, group)
            texts = {name: carried(given[name]) for name in names if given.get(name)}
            data[group] = language.messages[group](**texts)
    return Bound(language.env.Activation(data), values, unreadable)


@lru_cache(maxsize=4096)
def _groups(circumstances: frozenset[str]) -> Mapping[str, tuple[str, ...]]:
    """Give what is read of each group beside the attributes."""
    groups: dict[str, list[str]] = {}
    for name in sorted(circumstances):
        group, _, part = name.partition(".")
        groups.setdefault(group, []).append(part)
    return {group: tuple(parts) for group, parts in groups.items()}


def carried(value: object) -> str:
    """Give a text as the evaluator carries it: without lone surrogates, and not too long."""
    return str(value)[:MOST_CHARACTERS].encode(errors="replace").decode()
