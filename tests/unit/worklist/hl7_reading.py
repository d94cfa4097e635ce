"""HL7 messages read with the mapping that is built in, or one of a test's own."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any
from zoneinfo import ZoneInfo

from contracts.definition import Hl7Mapping
from libs.definition.mappings import resolved
from libs.hl7.charset import decode
from libs.hl7.message import parse, trimmed
from services.worklist.attributes import Attributes
from services.worklist.change import OrderChange
from services.worklist.hl7 import Interpretation, Sender, interpret
from services.worklist.mapping import Surroundings
from services.worklist.rule import rules

NOON = datetime(2026, 11, 20, 12, tzinfo=UTC)


def sender(mapping: Mapping[str, Any] | None = None, *, issuer: str = "HGM", zone: str = "Africa/Malabo") -> Sender:
    """Make the node RIS; `mapping` as in a definition."""
    mappings = {} if mapping is None else {"own": Hl7Mapping.model_validate(mapping)}
    used = resolved(mappings, "own" if mappings else "default")
    named = {"node.key": "RIS", "node.issuer": issuer, "site.key": "malabo", "site.name": "Hospital"}
    surroundings = Surroundings(named, ZoneInfo(zone), {"CT": ("CT1", "CT2")})
    return Sender("RIS", "malabo", "minsabs", rules(used.set), used.control, surroundings)


def interpreted(raw: bytes, given: Sender | None = None, charset: str = "ASCII") -> Interpretation:
    """Read a message that came at noon."""
    return interpret(parse(decode(trimmed(raw), charset)), given or sender(), NOON)


def change(raw: bytes, given: Sender | None = None, charset: str = "ASCII") -> OrderChange:
    """Read a message with one order."""
    found = interpreted(raw, given, charset)
    assert found.faults == ()
    [made] = found.changes
    assert isinstance(made, OrderChange)
    return made


def everything(made: OrderChange) -> Attributes:
    """Give all attributes of an order with one step."""
    steps = [step.attributes for step in made.steps]
    return {**made.about_patient, **made.about_order, **(steps[0] if steps else {})}
