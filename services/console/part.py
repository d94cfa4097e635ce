"""The parts of the service, and which of them are in force."""

from pydantic import BaseModel, Field

from contracts.definition import Definition


class Part(BaseModel):
    """One part of the service."""

    name: str
    in_force: bool
    detail: str = Field(description="What that means.")


def parts(definition: Definition | None) -> tuple[Part, ...]:
    """Tell what can be seen."""
    named = "No network is defined yet" if definition is None else f"The network {definition.name} is defined"
    return (
        Part(
            name="pages",
            in_force=False,
            detail=f"{named}, but there are no pages for a browser yet: use the command `kivuko` or the HTTP routes.",
        ),
    )
