"""Why all of a version of a study is wanted nowhere: its copy need not be kept for ever then."""

from collections.abc import Sequence

from sqlalchemy.ext.asyncio import AsyncSession

from services.rules import action_rows
from services.rules.in_force import InForce
from services.rules.plan import Known
from services.rules.repository import Study


async def why(
    tx: AsyncSession,
    study: Study,
    chosen: Sequence[Known],
    ended: Sequence[tuple[str, Sequence[Known]]],
    in_force: InForce,
) -> str | None:
    """Say which rules, or people who decided on what rules put aside, discarded a version; every doubt is a no.

    Parameters
    ----------
    tx, study, chosen
        The instances of the version.
    ended
        What rules that looked at the version as a whole put aside or discarded, by rule.
    in_force
        The rules.

    Returns
    -------
    str | None
        None if something of it was not discarded, or waits for a person.
    """
    rules = {one.id: one.aside for one in chosen if one.aside is not None}
    for name, put in ended:
        rules |= {one.id: name for one in put}
    if any(one.id not in rules for one in chosen):
        return None
    states = await action_rows.aside_states(tx, study)
    texts = {rule.name: rule.discard for rule in in_force.rules.definition.rules}
    reasons = []
    for name in sorted(set(rules.values())):
        if name in states:
            if states[name] != "discarded":
                return None
            reasons.append(f"people discarded what rule `{name}` put aside")
        else:
            text = texts.get(name)
            reasons.append(f"discarded by rule `{name}`" if text is None else f"{text} (rule `{name}`)")
    return "; ".join(reasons)
