"""Requests say what their transform said when rules asked for it, and under which definition they last did."""

from pathlib import Path
from typing import Any

from contracts.definition import Definition
from contracts.delivery import DeliveryRequested
from tests.unit.rules.scene import completed, definition, instance, make_scene, rule, stored

OLD, NEW = {"prefix": {"PatientID": "old-"}}, {"prefix": {"PatientID": "new-"}}


def transforming(transform: dict[str, Any] | None, trigger: str) -> Definition:
    said = definition(rule("all", trigger=trigger, transform="ids")).model_dump(
        mode="json", by_alias=True, exclude_defaults=True
    )
    if transform is None:
        del said["rules"][0]["transform"]
    return Definition.model_validate(said | {"transforms": {} if transform is None else {"ids": transform}})


def said(request: DeliveryRequested) -> tuple[Any, ...]:
    return (
        request.network_version,
        request.transform,
        request.transform_document,
        request.decided_under,
        len(request.items),
        request.study_version,
    )


async def test_what_was_asked_for_earlier_is_told_again_as_it_was_decided(tmp_path: Path) -> None:
    scene = await make_scene(tmp_path)
    try:
        await scene.apply(transforming(OLD, "instance"))
        await scene.take(stored(instance(1)))
        await scene.apply(transforming(NEW, "instance"))
        await scene.take(stored(instance(2)), completed(instance(1), instance(2)))
        found = [said(each) for each in await scene.requested()]
    finally:
        await scene.database.close()
    assert found == [
        (1, "ids", OLD, None, 1, None),
        (2, "ids", NEW, None, 1, None),
        (2, "ids", OLD, 1, 1, None),
        (2, "ids", NEW, None, 1, 1),
    ]


async def test_what_rules_ask_for_again_is_told_as_it_is_decided_now(tmp_path: Path) -> None:
    scene = await make_scene(tmp_path)
    try:
        await scene.apply(transforming(OLD, "study"))
        await scene.take(stored(instance(1)), completed(instance(1)))
        await scene.apply(transforming(NEW, "study"))
        await scene.take(stored(instance(2)), completed(instance(1), instance(2), version=2))
        # And it stays noted, though no rule asks any more.
        await scene.apply(definition())
        await scene.take(stored(instance(3)), completed(*map(instance, (1, 2, 3)), version=3))
        found = [said(each) for each in await scene.requested()]
    finally:
        await scene.database.close()
    assert found == [(1, "ids", OLD, None, 1, 1), (2, "ids", NEW, None, 2, 2), (3, "ids", NEW, 2, 2, 3)]


async def test_another_transform_than_before_does_not_make_it_decided_anew(tmp_path: Path) -> None:
    scene = await make_scene(tmp_path)
    try:
        await scene.apply(transforming(OLD, "study"))
        await scene.take(stored(instance(1)), completed(instance(1)))
        await scene.apply(transforming(None, "study"))
        await scene.take(stored(instance(2)), completed(instance(1), instance(2), version=2))
        found = [said(each) for each in await scene.requested()]
    finally:
        await scene.database.close()
    assert found[1:] == [(2, None, None, None, 1, None), (2, "ids", OLD, 1, 1, 2)]
