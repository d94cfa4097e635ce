"""The short way to the routes of a study that never changed gives what the long way gives."""

from datetime import timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from contracts.definition import Definition
from contracts.delivery import DeliveryItem
from contracts.fact import Attributes
from libs.definition.ruleset import RuleSet
from services.rules import chronicle
from services.rules.chronicle import Record
from services.rules.plan import Known
from services.rules.simulation import Outcome, Simulation
from tests.unit.rules.scene import CT1, NOW, PACS, TENANT, definition, instance, rule

POOL = (
    rule("all"),
    rule("large", "telerad", when="instance.Rows >= 1024", priority="urgent"),
    rule("small study", "telerad", "study", when='study.Modality == "CT"', transform="anon"),
    rule("again", "telerad", "study", priority="stat"),
    rule("group", "both", "study", priority="bulk"),
    {"name": "hurry", "trigger": "study", "priority": "stat", "when": 'study.Modality == "CT"'},
    {"name": "rest", "trigger": "study", "discard": "not for us", "when": 'study.Modality == "MR"'},
    {"name": "few", "trigger": "instance", "quarantine": "look", "when": "instance.Rows < 512"},
    rule("night", "telerad", "study", hold="20:00", when='study.Modality == "MR"'),
)
rules = st.lists(st.sampled_from(POOL), unique_by=lambda one: one["name"], min_size=1, max_size=6)
#: Hours before the decision, rows of the image, whether it came from a destination.
images = st.lists(
    st.tuples(st.integers(0, 3), st.sampled_from([256, 512, 1024]), st.booleans()), min_size=1, max_size=5
)


def known(number: int, hours: int, rows: int, *, back: bool) -> Known:
    one = instance(number)
    item = DeliveryItem.model_validate(one.model_dump(exclude={"attributes", "series_instance_uid", "replaces"}))
    at = NOW - timedelta(hours=hours)
    source = PACS if back else CT1
    return Known(number, item, one.series_instance_uid, at, source, {"Rows": rows, "Modality": "CT"}, "headers")


def outcome(under: Definition, record: Record, *, at_once: bool) -> Outcome:
    made = Simulation(RuleSet(under))
    made._at_once = made._at_once and at_once
    return made.outcome(TENANT, record)


@settings(max_examples=150, deadline=None)
@given(rules, images, st.sampled_from(["CT", "MR"]))
def test_both_ways_give_the_same(rules: list[Any], images: list[tuple[int, int, bool]], modality: str) -> None:
    made = definition(*rules).model_dump(by_alias=True, exclude_defaults=True)
    under = Definition.model_validate({**made, "transforms": {"anon": {"remove": ["PatientName"]}}})
    chosen = [known(number, hours, rows, back=back) for number, (hours, rows, back) in enumerate(images, start=1)]
    attributes: Attributes = {"Modality": modality}
    version = chronicle.version(
        *(1, NOW, 1, max(one.received_at for one in chosen), CT1, attributes, chosen),
        named=lambda _: {},
        more={},
        looked_for=(),
    )
    record = Record((version,), {})
    assert outcome(under, record, at_once=True) == outcome(under, record, at_once=False)
