"""The parts of the service, and which of them are in force."""

from pydantic import BaseModel, Field

from contracts.definition import Definition


class Part(BaseModel):
    """One part of the service."""

    name: str
    in_force: bool
    asked_for: int = Field(description="How many entries of the network definition ask for it.")
    detail: str = Field(description="What that means.")


def parts(definition: Definition | None) -> tuple[Part, ...]:
    """Tell what the network definition asks of this service and what it gets."""
    nodes = [] if definition is None else list(definition.nodes.values())
    return (
        Part(
            name="orders",
            in_force=True,
            asked_for=sum(node.hl7 is not None for node in nodes),
            detail="HL7 v2 orders, appointments, patients and merges are taken over MLLP: see docs/worklist-hl7.md.",
        ),
        Part(
            name="worklist",
            in_force=True,
            asked_for=sum("worklist" in node.may for node in nodes),
            detail="Worklist queries are answered.",
        ),
        Part(
            name="mpps",
            in_force=True,
            asked_for=sum("mpps" in node.may for node in nodes),
            detail="Performed procedure steps are taken, close their orders, and are passed on.",
        ),
    )
