"""What was sent is compared with what is there; nothing is sent because of it until a person says so."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from libs.clock import utc_now
from services.egress import comparison_rows
from services.egress.comparison import Span
from services.egress.orders import Given
from tests.integration.egress.keeper import keeper
from tests.integration.egress.peer import receiver
from tests.integration.egress.stand import Stand, archive, stand
from tests.support.synthetic import make_study

pytestmark = pytest.mark.integration
DAY = timedelta(days=1)


async def compare(egress: Stand) -> Any:
    """Compare all of the last day, and give what is written down of it."""
    now = utc_now()
    assert await egress.comparer.begin("archive", Span(now - DAY, now))

    async def ended() -> bool:
        async with egress.database.reading() as tx:
            row = await comparison_rows.last(tx, "archive")
        return row is not None and row.ended_at is not None

    await egress.until(ended)
    async with egress.database.reading() as tx:
        return await comparison_rows.last(tx, "archive")


@pytest.mark.parametrize("finds", [True, False])
async def test_what_is_gone_is_written_down_told_and_sent_again_only_by_a_person(finds: bool, tmp_path: Path) -> None:
    with keeper(finds=finds) as peer:
        async with stand(tmp_path, archive(peer.port, destination={"confirm": "commit"})) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 3, study_uid="1.2.3")))
            await egress.request(egress.keep(make_study(tmp_path, 2, study_uid="1.2.4")), study="1.2.4")
            for study in ("1.2.3", "1.2.4"):
                await egress.until_state("done", study=study)
            found = await compare(egress)
            assert (found.studies, found.instances, found.missing, found.unknown, found.problem) == (2, 5, 0, 0, None)
            gone = peer.stored[0]
            del peer.has[gone]
            found = await compare(egress)
            assert (found.studies, found.instances, found.missing, found.problem) == (2, 5, 1, None)
            (told,) = await egress.events("delivery.unconfirmed")
            assert (told["missing"], told["asked"]) == ([gone], "query" if finds else "commitment")
            assert len(peer.stored) == 5, "nothing is sent again by itself"
            # The same once more is nothing new.
            await compare(egress)
            assert len(await egress.events("delivery.unconfirmed")) == 1
            async with egress.database.reading() as tx:
                (lacking,) = await comparison_rows.lacking(tx, 9)
                assert await comparison_rows.missing(tx) == {"archive": 1}
            assert await egress.orders.give(Given("resend", "op"), [lacking.id]) == (1, 1)
            await egress.until_state("done", study=lacking.study_instance_uid)
            assert peer.stored.count(gone) == 2
            assert (await compare(egress)).missing == 0
            async with egress.database.reading() as tx:
                assert await comparison_rows.missing(tx) == {}
            # A version is told to be complete once.
            assert len(await egress.events("delivery.completed")) == 2


async def test_by_their_number_it_can_be_told_that_some_are_gone(tmp_path: Path) -> None:
    with keeper(commits=False) as peer:
        peer.image_level = False
        async with stand(tmp_path, archive(peer.port)) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 3, study_uid="1.2.3")))
            await egress.until_state("done")
            assert (await compare(egress)).missing == 0
            del peer.has[peer.stored[0]]
            assert (await compare(egress)).missing == 3
            peer.has |= {f"1.2.9.{n}": ("1.2.8", "1.2.3") for n in range(5)}
            found = await compare(egress)
            assert (found.missing, found.unknown) == (0, 3)


async def test_a_destination_that_can_tell_nothing_is_said_to(tmp_path: Path) -> None:
    with receiver() as peer:
        async with stand(tmp_path, archive(peer.port)) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 1)))
            await egress.until_state("done")
            found = await compare(egress)
            assert "neither queries" in found.problem
            assert (found.missing, found.studies) == (0, 0)


async def test_two_do_not_compare_the_same_at_once(tmp_path: Path) -> None:
    with keeper() as peer:
        async with stand(tmp_path, archive(peer.port)) as egress:
            now = utc_now()
            span = Span(now - DAY, now)
            async with egress.database.transaction() as tx:
                assert await comparison_rows.begin(tx, "archive", "other", span, now, None)
                assert not await comparison_rows.begin(tx, "archive", "a", span, now, None)
            assert not await egress.comparer.begin("archive", span)
            # Who has been silent for long is dead.
            late = now + comparison_rows.SILENT
            async with egress.database.transaction() as tx:
                assert await comparison_rows.begin(tx, "archive", "a", span, late, None)


async def test_it_compares_by_itself_once_a_day(tmp_path: Path) -> None:
    now = [datetime(2026, 11, 20, 12, tzinfo=UTC)]
    with keeper() as peer:
        snapshot = archive(peer.port, destination={"confirm": "query"})
        async with stand(tmp_path, snapshot, clock=lambda: now[0]) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 2, study_uid="1.2.3")))
            await egress.until_state("done")
            del peer.has[peer.stored[0]]
            now[0] += DAY

            async def told() -> bool:
                return len(await egress.events("delivery.unconfirmed")) == 1

            await egress.comparer.turn()
            await egress.until(told)
            async with egress.database.reading() as tx:
                first = await comparison_rows.last(tx, "archive")
            await egress.comparer.turn()
            async with egress.database.reading() as tx:
                last = await comparison_rows.last(tx, "archive")
            assert first is not None
            assert last is not None
            assert last.began_at == first.began_at == now[0]
