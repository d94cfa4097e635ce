"""The rules that decide now."""

from dataclasses import dataclass

from libs.definition.ruleset import RuleSet
from services.rules.need import Needs


@dataclass(frozen=True)
class InForce:
    """The rules in force, the version of the definition that they are from, and what they need."""

    version: int
    rules: RuleSet
    needs: Needs

    @property
    def timezone(self) -> str:
        """Time zone of times that rules name."""
        return self.rules.definition.timezone
