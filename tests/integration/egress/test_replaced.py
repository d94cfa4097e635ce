"""Other content of an instance: the one that was received last is delivered, whatever the order of the requests."""

import random
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select

from contracts.delivery import DeliveryItem
from contracts.manifest import set_hash
from services.egress.calling import Ending
from services.egress.claim import Stretch
from services.egress.models import deliveries, items
from services.egress.outcome import Outcome, Verdict
from tests.integration.egress.stand import Stand, archive, request
from tests.support.migrated import migrate

pytestmark = pytest.mark.integration
NOON = datetime(2026, 3, 1, 12, tzinfo=UTC)


def content(letter: str, second: int, uid: str = "1.2.9.1") -> DeliveryItem:
    """Make one content of an instance."""
    return DeliveryItem(
        sop_instance_uid=uid,
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        content_hash=letter * 64,
        object_key=f"{letter}-{second}.dcm",
        size=1,
        received_at=NOON + timedelta(seconds=second),
    )


def closing(version: int, *contents: DeliveryItem) -> dict[str, Any]:
    """Close a version of the study."""
    pairs = [(each.sop_instance_uid, each.content_hash) for each in contents]
    return {"study_version": version, "expected": len(contents), "expected_hash": set_hash(pairs), "closes": True}


async def stand(folder: Path) -> Stand:
    """Make an egress that knows where to send and is told what arrived."""
    egress = Stand(f"sqlite://{folder}/db", folder, None)
    await migrate(egress.database, "services.egress")
    await egress.apply(archive(9))
    return egress


async def send(egress: Stand) -> list[str]:
    """Say success for everything that is due; give the object keys in the order in which they went."""
    stretches: dict[str, Stretch] = {}
    parcels = await egress.work.claim("archive", 100, stretches)
    answers = [(each, Outcome(each.item, Verdict.SENT, "0000")) for each in parcels]
    if answers:
        await egress.work.settle("archive", answers, [], list(stretches.values()), [Ending("finished")])
    return [each.object_key for each in parcels]


async def state(egress: Stand) -> str:
    """Give the delivery's state."""
    async with egress.database.reading() as tx:
        return str(await tx.scalar(select(deliveries.c.state)))


async def test_a_content_that_came_later_is_sent_after_the_one_that_was_sent(tmp_path: Path) -> None:
    egress = await stand(tmp_path)
    old, new, other = content("a", 1), content("b", 2), content("c", 1, "1.2.9.2")
    await egress.request([old, other], **closing(1, old, other))
    assert sorted(await send(egress)) == ["a-1.dcm", "c-1.dcm"]
    assert await state(egress) == "done"
    await egress.request([new, other], **closing(2, new, other))
    assert await state(egress) == "open"
    assert await send(egress) == ["b-2.dcm"]
    assert await state(egress) == "done"
    again = content("a", 3)
    await egress.request([again, other], **closing(3, again, other))
    assert await send(egress) == ["a-3.dcm"]
    await egress.request([old, other], **closing(1, old, other))
    assert (await send(egress), await state(egress)) == ([], "done")
    await egress.database.close()


async def test_what_came_round_is_not_sent_to_whoever_has_it(tmp_path: Path) -> None:
    egress = await stand(tmp_path)
    old, other = content("a", 1), content("c", 1, "1.2.9.2")
    await egress.request([old], **closing(1, old))
    assert await send(egress) == ["a-1.dcm"]
    # Their copy has expired. One has arrived there before, of the other nobody ever asked.
    back = [each.model_copy(update={"came_round": True}) for each in (content("a", 9), content("c", 9, "1.2.9.2"))]
    await egress.request(back, **closing(2, *back))
    assert await send(egress) == ["c-9.dcm"]
    assert await state(egress) == "done"
    assert [each["study_version"] for each in await egress.events("delivery.completed")] == [1, 2]
    assert {each.object_key for each in await egress.items()} == {"a-9.dcm", "c-9.dcm"}
    # What only was replaced there meanwhile goes once more, and so does what comes again from where it came first.
    new = content("b", 10)
    await egress.request([new, other], **closing(3, new, other))
    again = content("a", 11).model_copy(update={"came_round": True})
    await egress.request([again, other], **closing(4, again, other))
    assert await send(egress) == ["a-11.dcm"]
    asked = content("a", 12)
    await egress.request([asked, other], **closing(5, asked, other))
    assert (await send(egress), await state(egress)) == (["a-12.dcm"], "done")
    await egress.database.close()


@pytest.mark.parametrize("luck", range(6))
async def test_of_contents_that_wait_only_the_last_goes_in_any_order_of_requests(tmp_path: Path, luck: int) -> None:
    egress = await stand(tmp_path)
    versions = [content(letter, second) for second, letter in enumerate("abc", 1)]
    asked = [
        *(request([each], **closing(number, each)) for number, each in enumerate(versions, 1)),
        request([versions[0]], closes=False),
        request([versions[2]], closes=False),
    ]
    random.Random(luck).shuffle(asked)
    for each in asked:
        async with egress.database.transaction() as tx:
            await egress.deliveries.merge(each, tx)
    assert await send(egress) == ["c-3.dcm"]
    assert (await send(egress), await state(egress)) == ([], "done")
    async with egress.database.reading() as tx:
        rows = await tx.execute(select(items.c.object_key, items.c.current).order_by(items.c.object_key))
        assert [tuple(row) for row in rows] == [("a-1.dcm", False), ("b-2.dcm", False), ("c-3.dcm", True)]
    await egress.database.close()


async def test_a_content_without_a_time_gives_way(tmp_path: Path) -> None:
    egress = await stand(tmp_path)
    old = content("f", 0).model_copy(update={"received_at": None})
    new = content("a", 1)
    await egress.request([old], **closing(1, old))
    await egress.request([new], **closing(2, new))
    assert await send(egress) == ["a-1.dcm"]
    assert await state(egress) == "done"
    await egress.database.close()
