"""What limits a destination: its window, its budget, and turns between those who wait."""

from collections.abc import Sequence
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import select

from contracts.delivery import DeliveryItem
from libs.clock import utc_now
from services.egress.claim import Stretch
from services.egress.models import deliveries
from services.egress.outcome import Outcome, Verdict
from services.egress.parcel import Parcel
from tests.integration.egress.peer import receiver
from tests.integration.egress.stand import Stand, archive, request, stand
from tests.support.migrated import migrate
from tests.support.synthetic import make_study

pytestmark = pytest.mark.integration
SIZE = 1000


def content(number: int) -> DeliveryItem:
    """Describe an instance that nobody reads."""
    return DeliveryItem(
        sop_instance_uid=f"1.2.9.{number}",
        sop_class_uid="1.2.840.10008.5.1.4.1.1.2",
        transfer_syntax_uid="1.2.840.10008.1.2.1",
        content_hash=f"{number:064x}",
        object_key=f"{number}.dcm",
        size=SIZE,
        received_at=utc_now(),
    )


async def made(folder: Path, destination: dict[str, object]) -> Stand:
    """Make an egress of which nothing runs."""
    egress = Stand(f"sqlite://{folder}/db", folder, None)
    await migrate(egress.database, "services.egress")
    await egress.apply(archive(9, destination=destination))
    return egress


async def ask(egress: Stand, numbers: Sequence[int], source: str, *, later: float = 0) -> None:
    """Have instances of a study of their own requested, from a node."""
    event = request([content(number) for number in numbers], study=f"1.2.{numbers[0]}", later=later)
    data = event.data.model_copy(update={"source_node": source})
    async with egress.database.transaction() as tx:
        await egress.deliveries.merge(event.model_copy(update={"data": data}), tx)


async def claim(egress: Stand, most: int, in_hand: int = 0) -> tuple[list[Parcel], dict[str, Stretch]]:
    """Take in hand."""
    stretches: dict[str, Stretch] = {}
    return await egress.work.claim("archive", most, stretches, in_hand), stretches


async def test_who_comes_later_with_little_does_not_wait_for_who_has_much(tmp_path: Path) -> None:
    egress = await made(tmp_path, {})
    await ask(egress, range(100, 200), "CT1")
    await ask(egress, [1, 2], "US1", later=60)
    parcels, _ = await claim(egress, 12)
    order = [parcel.object_key for parcel in sorted(parcels, key=lambda each: each.rank)]
    assert order[:6] == ["100.dcm", "101.dcm", "102.dcm", "103.dcm", "1.dcm", "2.dcm"]
    assert len(order) == 12
    await egress.database.close()


async def test_no_object_is_begun_when_nothing_is_left_for_today(tmp_path: Path) -> None:
    egress = await made(tmp_path, {"budget": 2 * SIZE + 1})
    await ask(egress, range(100, 110), "CT1")
    first, stretches = await claim(egress, 64)
    # The third may be begun, as a byte is left: it is finished past the budget.
    assert len(first) == 3
    assert await claim(egress, 64, in_hand=3 * SIZE) == ([], {})
    answers = [(each, Outcome(each.item, Verdict.SENT, "0000")) for each in first]
    await egress.work.settle("archive", answers, [], list(stretches.values()), [])
    assert await claim(egress, 64) == ([], {})
    await egress.apply(archive(9, 2, destination={"budget": 4 * SIZE}))
    assert len((await claim(egress, 64))[0]) == 1
    await egress.database.close()


async def test_outside_its_window_a_destination_gets_nothing_and_shows_why(tmp_path: Path) -> None:
    later = utc_now() + timedelta(hours=2)
    window = f"{later:%H}:00-{later + timedelta(hours=1):%H}:00"
    with receiver() as peer:
        async with stand(tmp_path, archive(peer.port, destination={"window": window})) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 2)))
            row = await egress.until_state("waiting")
            assert f"opens at {later:%H}:00" in (row.reason or "")
            async with egress.database.reading() as tx:
                assert (await tx.execute(select(deliveries.c.attempts))).scalar_one() == 0
            assert peer.received == []
            await egress.apply(archive(peer.port, 2))
            await egress.until_state("done")
    assert len(peer.received) == 2
