"""The parts of a condition that must all hold. Pure."""

from libs.definition.clause import Clause, clauses


def conjuncts(text: str) -> list[str]:
    """Split a valid condition at the `&&` of its top level; give it whole where there is none."""
    return [text[one.start : one.end] for one in _conjuncts(clauses(text))]


def _conjuncts(clause: Clause) -> list[Clause]:
    return [one for part in clause.parts for one in _conjuncts(part)] if clause.kind == "all" else [clause]
