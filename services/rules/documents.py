"""What transforms said when rules asked for them: requests carry it, so that it is done whatever is applied later."""

import json
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError
from sqlalchemy.ext.asyncio import AsyncSession

from contracts.definition import Transform
from services.rules import history
from services.rules.in_force import InForce
from services.rules.plan import Documents, Requested


async def documents(tx: AsyncSession, made: Iterable[Requested], in_force: InForce) -> Documents:
    """Give what the transforms of requests say, by name and the version of the definition that asked for them.

    What an earlier release asked for under a definition that nobody kept is left out.
    """
    wanted = {
        (one.wish.transform, one.wish.under or in_force.version) for one in made if one.wish.transform is not None
    }
    found: dict[tuple[str, int], dict[str, Any]] = {}
    for version in sorted({version for _, version in wanted}):
        if version == in_force.version:
            # With the decision, so that it is there when this is told of again under another one.
            await history.ensure_definition(tx, version, in_force.rules.definition)
            said: dict[str, Any] = dict(in_force.rules.definition.transforms)
        else:
            kept = await history.definition_of(tx, version)
            said = {} if kept is None else json.loads(kept)["transforms"]
        found |= {(name, version): _document(said[name]) for name, under in wanted if under == version and name in said}
    return found


def _document(said: Any) -> dict[str, Any]:
    try:
        transform = Transform.model_validate(said)
    except ValidationError:
        # Of a release that knew other words; whoever is to do it says so.
        return dict(said)
    return transform.model_dump(mode="json", by_alias=True, exclude_defaults=True)
