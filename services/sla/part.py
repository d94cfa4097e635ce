"""The service levels of the network definition, and whether they are measured."""

from pydantic import BaseModel, Field

from contracts.definition import Definition


class Part(BaseModel):
    """One service level."""

    name: str
    in_force: bool
    contract: str
    objective: str
    detail: str = Field(description="What that means.")


def parts(definition: Definition | None) -> tuple[Part, ...]:
    """Tell which service levels are kept, and what becomes of them."""
    return tuple(
        Part(
            name=level.name,
            in_force=False,
            contract=level.contract,
            objective=level.objective,
            detail="The target is kept but not measured yet; /metrics has the times that it would be measured by.",
        )
        for level in (() if definition is None else definition.service_levels)
    )
