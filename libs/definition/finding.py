"""What people should look at in a definition that is valid, and the rules as they are looked through for it."""

from dataclasses import dataclass
from typing import Literal

from contracts.definition import Rule
from libs.definition.condition import Condition
from libs.definition.document import Path, Problem
from libs.definition.truth import Formula

Level = Literal["warning", "note"]


@dataclass(frozen=True)
class Finding:
    """Something that people should look at.

    Attributes
    ----------
    level
        warning: likely a mistake; note: good to know.
    kind
        never, always, unreachable, overlap, loop, unknown, retired, unused.
    problem
        What, where, and what to do.
    """

    level: Level
    kind: str
    problem: Problem


@dataclass(frozen=True)
class Reading:
    """A rule, where it stands, and its condition as something to be asked about."""

    position: int
    rule: Rule
    condition: Condition
    formula: Formula

    def path(self, *inside: str | int) -> Path:
        """Give where the rule stands, or a part of it."""
        return ("rules", self.position, *inside)
