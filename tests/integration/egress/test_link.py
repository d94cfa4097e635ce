"""Egress over a slow, long line that breaks: a quarter of the times, so that the proportions are the real ones.

The real ones, 384 kbit/s, 715 ms, a cut of 10 s each minute, are in `tests/bench/link.py`.
"""

from pathlib import Path

import pytest

from tests.integration.egress.stand import QUICK, archive, stand
from tests.support.link import Link, Mode
from tests.support.misbehaving import Destination
from tests.support.synthetic import make_ct, make_study

pytestmark = pytest.mark.integration
_QUICKER = 4
_RATE, _RTT = 384_000 * _QUICKER, 0.715 / _QUICKER


async def test_nine_tenths_of_the_line_are_used(tmp_path: Path) -> None:
    paths = make_study(tmp_path, 6, rows=512, cols=512)
    with Destination() as destination, Link(destination.port, rate=_RATE, rtt=_RTT) as link:
        async with stand(tmp_path, archive(link.port, destination={"associations": 2})) as egress:
            await egress.request(egress.keep(paths))
            await egress.until_state("done")
        assert link.up.busy >= 0.9
        assert link.up.lost == 0
    assert destination.record.counts() == dict.fromkeys((path.stem for path in paths), 1)
    assert destination.record.violations == []


@pytest.mark.parametrize("associations", [1, 2])
async def test_a_stat_study_overtakes_a_backlog_within_one_object(tmp_path: Path, associations: int) -> None:
    backlog = make_study(tmp_path, 24, rows=256, cols=128)
    stat = make_ct(tmp_path, rows=256, cols=128)
    with Destination() as destination, Link(destination.port, rate=_RATE, rtt=_RTT) as link:
        snapshot = archive(link.port, destination={"associations": associations})
        async with stand(tmp_path, snapshot, QUICK.model_copy(update={"hold": 8})) as egress:
            record = destination.record
            await egress.request(egress.keep(backlog), study="1.2.1", priority="bulk")

            async def under_way() -> bool:
                return any(each.state == "sent" for each in await egress.items())

            await egress.until(under_way)
            await egress.request(egress.keep([stat]), study="1.2.2", priority="stat")

            async def in_hand() -> bool:
                return any(
                    each.sop_instance_uid == stat.stem and (each.leased_by or each.state == "sent")
                    for each in await egress.items()
                )

            await egress.until(in_hand)
            before = len(record.received)
            await egress.until_state("done", study="1.2.2")
            [place] = [each.order for each in record.received if each.sop_uid == stat.stem]
            # What was under way comes first, in each association one.
            assert place <= before + associations + 1
            assert place < len(backlog)


@pytest.mark.parametrize("mode", ["reset", "silent"])
async def test_a_cut_costs_no_more_than_one_object(tmp_path: Path, mode: Mode) -> None:
    paths = make_study(tmp_path, 16, rows=256, cols=128)
    with Destination() as destination, Link(destination.port, rate=_RATE, rtt=_RTT) as link:
        async with stand(tmp_path, archive(link.port, destination={"associations": 1})) as egress:
            link.cut_every(2.5, 0.4, mode)
            await egress.request(egress.keep(paths))
            await egress.until_state("done")
            cuts = link.cuts
            link.mend()
            record = destination.record
            begun = sum(len(met.begun) for met in record.met)
        assert cuts >= 1
        assert begun - len(paths) <= (cuts if mode == "reset" else 0)
    assert record.confirmed() == {path.stem for path in paths}
    assert all(len(digests) == 1 for digests in record.digests().values())
    assert record.violations == []
