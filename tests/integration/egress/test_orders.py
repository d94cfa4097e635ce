"""What people order, with real receivers, on both databases."""

import asyncio
import threading
from pathlib import Path

import pytest

from services.egress import repository
from services.egress.orders import Given
from tests.integration.egress.peer import receiver
from tests.integration.egress.stand import QUICK, Stand, archive, network, stand
from tests.support.port import free_port
from tests.support.synthetic import make_ct, make_study

pytestmark = pytest.mark.integration
HOLD, CANCEL = Given("hold", "op", "wrong rule"), Given("cancel", "op")
RELEASE, RETRY = Given("release", "op"), Given("retry", "op")
#: What has begun comes to its end; with so few in hand the rest of a study has not.
FEW = QUICK.model_copy(update={"hold": 2})


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Address of an empty database."""
    if request.param == "sqlite":
        return f"sqlite://{tmp_path / 'db'}"
    address: str = request.getfixturevalue("postgresql").database()
    return address


class Gate:
    """Lets a receiver answer when it is told to, and says when it was first asked."""

    def __init__(self) -> None:
        self.asked = threading.Event()
        self.opened = threading.Event()

    def __call__(self, _uid: str) -> int:
        self.asked.set()
        assert self.opened.wait(60)
        return 0


async def key_of(egress: Stand, study: str = "1.2.3") -> str:
    row = await egress.delivery(study)
    assert row is not None
    return str(row.id)


async def test_what_is_held_stays_until_it_is_released(tmp_path: Path, url: str) -> None:
    port = free_port()
    async with stand(tmp_path, archive(port), database_url=url) as egress:
        await egress.request(egress.keep(make_study(tmp_path, 3)))
        await egress.until_state("waiting")
        key = await key_of(egress)
        assert await egress.orders.give(HOLD, [key]) == (1, 0)
        # Neither more requests, nor a later version, nor a definition, nor trying again lets it go.
        await egress.request(egress.keep([make_ct(tmp_path)]), study_version=2, expected=4)
        await egress.apply(archive(port, 2, associations=3))
        assert await egress.orders.give(RETRY, [key]) == (0, 0)
        with receiver(port=port) as peer:
            await egress.request(egress.keep([make_ct(tmp_path)]), study="1.2.4")
            await egress.until_state("done", study="1.2.4")
            row = await egress.until_state("held")
            assert "held by op since" in row.reason
            assert row.reason.endswith(": wrong rule")
            assert len(peer.received) == 1
            assert await egress.orders.give(RELEASE, [key]) == (1, 0)
            await egress.until_state("done")
            assert len(peer.received) == 5
        told = [(each["order"], each["actor"], each["reason"]) for each in await egress.events("delivery.ordered")]
        assert told == [("held", "op", "wrong rule"), ("released", "op", None)]


async def test_amid_a_study_what_is_not_in_hand_does_not_begin(tmp_path: Path, url: str) -> None:
    gate = Gate()
    with receiver(gate) as peer:
        async with stand(tmp_path, archive(peer.port, associations=1), FEW, database_url=url) as egress:
            paths = make_study(tmp_path, 30)
            await egress.request(egress.keep(paths))
            await asyncio.to_thread(gate.asked.wait, 60)
            key = await key_of(egress)
            await egress.orders.give(HOLD, [key])
            gate.opened.set()
            await egress.until_state("held")
            assert len(peer.received) <= FEW.hold
            async with egress.database.reading() as tx:
                assert await repository.stopped(tx, [key]) == {key}
            await egress.orders.give(RELEASE, [key])
            await egress.until_state("done")
    assert sorted(peer.received) == sorted(path.stem for path in paths)


async def test_what_is_cancelled_never_is_done_though_all_has_arrived(tmp_path: Path, url: str) -> None:
    gate = Gate()
    with receiver(gate) as peer:
        async with stand(tmp_path, archive(peer.port), database_url=url) as egress:
            await egress.request(egress.keep([make_ct(tmp_path)]))
            await asyncio.to_thread(gate.asked.wait, 60)
            key = await key_of(egress)
            await egress.orders.give(CANCEL, [key])
            gate.opened.set()

            async def answered() -> bool:
                return [item.state for item in await egress.items()] == ["sent"]

            await egress.until(answered)
            row = await egress.until_state("cancelled", "done")
            assert row.state == "cancelled"
            assert await egress.events("delivery.completed") == []
            # Released, it is what it is: done, as nothing is left to send.
            await egress.orders.give(RELEASE, [key])
            await egress.until_state("done")
            assert len(await egress.events("delivery.completed")) == 1
            for order in (HOLD, CANCEL, RELEASE, RETRY):
                assert await egress.orders.give(order, [key]) == (0, 0)


async def test_a_cancelled_one_comes_back_with_a_later_version_but_not_with_the_first(tmp_path: Path, url: str) -> None:
    with receiver() as peer:
        async with stand(tmp_path, None, database_url=url) as egress:
            wanted = egress.keep(make_study(tmp_path, 3))
            await egress.request(wanted[:1], closes=False)
            await egress.orders.give(CANCEL, [await key_of(egress)])
            await egress.apply(archive(peer.port))
            await egress.request(wanted[:2])
            await egress.request(wanted[:2])
            await egress.request(egress.keep([make_ct(tmp_path)]), study="1.2.4")
            await egress.until_state("done", study="1.2.4")
            row = await egress.delivery()
            assert row is not None
            assert (row.state, row.study_version, len(peer.received)) == ("cancelled", 1, 1)
            await egress.request(wanted, study_version=2)
            row = await egress.until_state("done")
            assert (row.ordered, row.ordered_by, row.ordered_why) == (None, None, None)
    assert len(peer.received) == 4


async def test_all_that_failed_is_tried_again_where_the_definition_leads_now(tmp_path: Path, url: str) -> None:
    with receiver(lambda _uid: 0xC000) as bad, receiver() as good:
        async with stand(tmp_path, archive(bad.port), database_url=url) as egress:
            for study in ("1.2.1", "1.2.2"):
                await egress.request(egress.keep(make_study(tmp_path, 2)), study=study)
            for study in ("1.2.1", "1.2.2"):
                await egress.until_state("failed", study=study)
            keys = [await key_of(egress, study) for study in ("1.2.1", "1.2.2")]
            # Gone from the definition it is held, and goes by itself when it is there again.
            await egress.apply(network(2, {}, {}))
            assert await egress.orders.give(RETRY, keys) == (2, 4)
            row = await egress.until_state("held", study="1.2.1")
            assert "not in the network definition" in row.reason
            await egress.apply(archive(good.port, 3))
            for study in ("1.2.1", "1.2.2"):
                await egress.until_state("done", study=study)
    assert len(good.received) == 4


async def test_a_paused_destination_gets_nothing_and_all_of_it_afterwards(tmp_path: Path, url: str) -> None:
    destinations = {"archive": {"node": "A"}, "other": {"node": "B"}}
    with receiver() as paused, receiver() as other:
        nodes = {"A": {"port": paused.port, "associations": 2}, "B": {"port": other.port}}
        async with stand(tmp_path, network(1, destinations, nodes), database_url=url) as egress:
            await egress.orders.pause("archive", "op", "new disks")
            for n in range(3):
                for destination in destinations:
                    wanted = egress.keep(make_study(tmp_path, 2))
                    await egress.request(wanted, study=f"1.2.{n}", destination=destination)
            for n in range(3):
                await egress.until_state("done", study=f"1.2.{n}", destination="other")
                row = await egress.until_state("held", "done", study=f"1.2.{n}")
                assert "its destination is paused by op since" in row.reason
                assert row.reason.endswith(": new disks")
            # A definition does not resume it, and one that a person holds stays so.
            await egress.apply(network(2, destinations, nodes))
            await egress.orders.give(HOLD, [await key_of(egress, "1.2.0")])
            assert not paused.received
            await egress.orders.resume("archive")
            for n in (1, 2):
                await egress.until_state("done", study=f"1.2.{n}")
            row = await egress.until_state("held", study="1.2.0")
            assert "held by op" in row.reason
            assert len(paused.received) == 4
            assert paused.most_associations <= 2


async def test_what_waited_for_a_definition_still_does_after_a_pause(tmp_path: Path, url: str) -> None:
    async with stand(tmp_path, network(1, {}, {}), database_url=url) as egress:
        await egress.request(egress.keep([make_ct(tmp_path)]))
        await egress.until_state("held")
        await egress.orders.pause("archive", "op", None)
        assert "paused by op" in (await egress.until_state("held")).reason
        await egress.orders.resume("archive")
        assert "not in the network definition" in (await egress.until_state("held")).reason
