"""What was ordered, in conditions and as a trigger; whichever comes first."""

from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from contracts.envelope import Event
from contracts.order import OrderCancelled, OrderChanged, OrderPlaced
from services.rules import ordered as ordered_rows
from services.rules.models import order_links
from services.rules.ordered import forget
from tests.unit.rules.scene import (
    NOW,
    STUDY,
    TENANT,
    Scene,
    completed,
    definition,
    instance,
    items,
    make_scene,
    rule,
    stored,
)

ONE = instance(1, AccessionNumber="A1")


def ordered(
    model: type[OrderPlaced | OrderChanged | OrderCancelled] = OrderPlaced,
    revision: int = 1,
    uid: str = STUDY,
    site: str = "malabo",
    **more: Any,
) -> Event[Any]:
    told = model(
        **{
            "accession_number": "A1",
            "study_instance_uid": uid,
            "priority": "stat",
            "modality": "CT",
            "patient_id": "100",
            "requested_priority": "STAT",
            "revision": revision,
            **more,
        }
    )
    name = {OrderPlaced: "placed", OrderChanged: "changed", OrderCancelled: "cancelled"}[model]
    return Event[Any](
        id=f"{name}{revision}{uid}",
        source="/local/worklist",
        type=f"kivuko.order.{name}.v1",
        subject=uid,
        time=NOW,
        tenant=TENANT,
        site=site,
        sequence=1,
        data=told,
    )


async def tell(scene: Scene, *events: Event[Any]) -> None:
    for event in events:
        async with scene.database.transaction() as tx:
            cancelled = isinstance(event.data, OrderCancelled)
            await scene.decider.told_of_order(event, tx, cancelled=cancelled)


@pytest.fixture
async def scene(tmp_path: Path) -> Any:
    made = await make_scene(tmp_path)
    yield made
    await made.database.close()


def destinations(requests: Any) -> set[str]:
    return {name for name, _ in items(requests)}


@pytest.mark.parametrize("uid", [STUDY, "9.9"])
async def test_conditions_of_images_and_studies_read_the_order_by_uid_or_accession(scene: Scene, uid: str) -> None:
    asks = 'order.priority == "STAT" && order.modality == "CT"'
    await scene.apply(definition(rule("i", when=asks), rule("s", "telerad", "study", when=asks)))
    await tell(scene, ordered(uid=uid))
    await scene.take(stored(ONE), completed(ONE, AccessionNumber="A1"))
    assert destinations(await scene.requested()) == {"pacs", "telerad"}


@pytest.mark.parametrize(
    ("site", "patient", "found"),
    [("malabo", "100", True), ("malabo", "200", True), ("bata", "100", True), ("bata", "200", False)],
)
async def test_an_accession_number_of_another_site_counts_for_its_patient_only(
    scene: Scene, site: str, patient: str, found: bool
) -> None:
    await scene.apply(definition(rule("s", "telerad", "study", when='order.priority == "STAT"')))
    await tell(scene, ordered(uid="9.9", site=site, patient_id=patient))
    one = instance(1, AccessionNumber="A1", PatientID="100")
    await scene.take(stored(one), completed(one, AccessionNumber="A1", PatientID="100"))
    assert (destinations(await scene.requested()) == {"telerad"}) is found


@pytest.mark.parametrize(("uid", "found"), [(STUDY, True), ("8.8", False)])
async def test_an_accession_number_of_very_many_orders_hides_no_study_s_own_and_decides_nothing(
    scene: Scene, uid: str, found: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ordered_rows, "MOST", 5)
    await scene.apply(definition(rule("s", "telerad", "study", when='order.code == "OWN"')))
    many = [ordered(uid=f"9.{number}", site="bata", patient_id="200") for number in range(ordered_rows.MOST)]
    # Where it would be looked at last, or first.
    own = ordered(uid=uid, code="OWN")
    await tell(scene, *([*many, own] if found else [own, *many]))
    one = instance(1, AccessionNumber="A1", PatientID="100")
    await scene.take(stored(one), completed(one, AccessionNumber="A1", PatientID="100"))
    assert (destinations(await scene.requested()) == {"telerad"}) is found


async def test_without_an_order_it_is_empty_and_a_cancelled_one_is_none(scene: Scene) -> None:
    await scene.apply(
        definition(rule("s", "telerad", "study", when='order.priority == ""'), rule("o", trigger="order"))
    )
    await tell(scene, ordered(), ordered(OrderCancelled, 2))
    await scene.take(stored(ONE), completed(ONE, AccessionNumber="A1"))
    assert destinations(await scene.requested()) == {"telerad"}


async def test_of_two_events_in_the_wrong_order_the_newer_one_counts(scene: Scene) -> None:
    await scene.apply(definition(rule("s", "telerad", "study", when='order.priority == "ROUTINE"')))
    await tell(scene, ordered(OrderChanged, 5, requested_priority="ROUTINE"), ordered(revision=1))
    await scene.take(stored(ONE), completed(ONE, AccessionNumber="A1"))
    assert destinations(await scene.requested()) == {"telerad"}


@pytest.mark.parametrize("first", ["order", "study"])
@pytest.mark.parametrize("uid", [STUDY, "9.9"])
async def test_an_order_triggers_rules_whichever_comes_first(scene: Scene, first: str, uid: str) -> None:
    await scene.apply(definition(rule("i"), rule("o", "telerad", "order", when='order.priority == "STAT"')))
    if first == "order":
        await tell(scene, ordered(uid=uid))
    await scene.take(stored(ONE), completed(ONE, AccessionNumber="A1"))
    if first == "study":
        assert destinations(await scene.requested()) == {"pacs"}
        await tell(scene, ordered(uid=uid))
    assert destinations(await scene.requested()) == {"pacs", "telerad"}
    assert "order" in {one.occasion for one in await scene.decided()}


@pytest.mark.parametrize("first", ["order", "study"])
async def test_a_study_that_no_number_names_has_the_order_that_it_is_linked_to(scene: Scene, first: str) -> None:
    await scene.apply(
        definition(
            rule("i"), rule("o", "telerad", "order", when='order.patient_class == "E" && order.accession == "B2"')
        )
    )
    linked = ordered(
        OrderChanged, uid="9.9", accession_number="B2", patient_class="E", linked_study_instance_uids=(STUDY,)
    )
    if first == "order":
        await tell(scene, linked)
    await scene.take(stored(ONE), completed(ONE, AccessionNumber="A1"))
    if first == "study":
        await tell(scene, ordered(uid="9.9", accession_number="B2", patient_class="E"))
        assert destinations(await scene.requested()) == {"pacs"}
        await tell(scene, linked)
    assert destinations(await scene.requested()) == {"pacs", "telerad"}


async def test_an_order_that_a_person_took_a_study_from_is_not_its_own_until_it_is_linked_again(scene: Scene) -> None:
    reads = 'order.priority == "STAT"'
    await scene.apply(definition(rule("i", when=reads), rule("none", "telerad", when='order.priority == ""')))
    await tell(scene, ordered(), ordered(OrderChanged, 2, unlinked_study_instance_uids=(STUDY,)))
    await scene.take(stored(ONE))
    assert destinations(await scene.requested()) == {"telerad"}
    await tell(scene, ordered(OrderChanged, 3))
    await scene.take(stored(instance(2, AccessionNumber="A1")))
    assert destinations(await scene.requested()) == {"telerad", "pacs"}


async def test_links_go_with_their_order_to_another_uid_and_are_forgotten_with_it(scene: Scene) -> None:
    await tell(scene, ordered(OrderChanged, uid="9.8", accession_number="B2", linked_study_instance_uids=(STUDY,)))
    moved = ordered(OrderChanged, 2, "9.9", former_study_instance_uids=("9.8",), linked_study_instance_uids=(STUDY,))
    await tell(scene, moved)
    async with scene.database.transaction() as tx:
        rows = (await tx.execute(select(order_links))).all()
        assert [(row.order_uid, row.bound) for row in rows] == [("9.9", True)]
        await forget(tx, NOW + timedelta(days=9999))
        assert (await tx.execute(select(order_links))).all() == []
