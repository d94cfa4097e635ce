"""A line of 384 kbit/s and 715 ms to a destination: how much of it is used, what is overtaken, what a cut costs."""

import asyncio
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final
from uuid import uuid4

from rich.progress import Progress

from contracts.delivery import DeliveryItem
from services.egress.settings import EgressSettings
from tests.bench.figure import Figure, at_least
from tests.integration.egress.stand import Stand, archive, stand
from tests.support.link import Link
from tests.support.misbehaving import Destination
from tests.support.process import wait_until
from tests.support.synthetic import make_ct

_RATE, _RTT = 384_000.0, 0.715
_ASSOCIATIONS = 2
_BACKLOG: Final = 2_000_000_000
#: Most items of a request.
_A_REQUEST: Final = 500
#: How long the use of the line is measured, seconds.
_MEASURED_S: Final = 120.0
_CUT_EVERY_S, _CUT_FOR_S, _CUTS = 60.0, 10.0, 3
_PATIENCE_S: Final = 300.0


def run(progress: Progress) -> list[Figure]:
    """Put a backlog of 2 GB before the line, and have it for some six minutes."""
    with tempfile.TemporaryDirectory() as folder:
        return asyncio.run(_run(Path(folder), progress))


async def _run(folder: Path, progress: Progress) -> list[Figure]:
    task = progress.add_task("link: backlog", total=3)
    with Destination() as destination, Link(destination.port, rate=_RATE, rtt=_RTT) as link:
        record = destination.record
        snapshot = archive(link.port, destination={"associations": _ASSOCIATIONS})
        async with stand(folder, snapshot, EgressSettings()) as egress:
            [image] = egress.keep([make_ct(folder, rows=512, cols=512)])
            await _backlog(egress, image)
            await _until(lambda: bool(record.received), "the first object")
            progress.update(task, description="link: use")
            link.forget()
            await asyncio.sleep(_MEASURED_S)
            busy = link.up.busy
            progress.update(task, advance=1, description="link: overtaking")
            overtaken = await _overtaken(egress, image, destination)
            progress.update(task, advance=1, description="link: cuts")
            before = await _in_vain(egress)
            link.cut_every(_CUT_EVERY_S, _CUT_FOR_S)
            await _until(lambda: link.cuts == _CUTS, "the cuts")
            link.mend()
            received = len(record.received)
            await _until(lambda: len(record.received) > received + _ASSOCIATIONS, "it to go on after the cuts")
            in_vain = await _in_vain(egress) - before
            progress.advance(task)
        if record.violations:
            raise RuntimeError(f"the sender broke the Standard: {record.violations[0]}")
    return [
        at_least("384 kbit/s, 715 ms, CT: part of the line in use", "of the line", [busy], 0.9),
        _at_most_one("objects that a stat study let pass, for each association", overtaken / _ASSOCIATIONS),
        _at_most_one("objects begun in vain, for each cut and association", in_vain / _CUTS / _ASSOCIATIONS),
    ]


async def _backlog(egress: Stand, image: DeliveryItem) -> None:
    left = _BACKLOG // image.size
    study = 0
    while left > 0:
        study += 1
        wanted = [_another(image) for _ in range(min(left, _A_REQUEST))]
        await egress.request(wanted, study=f"1.2.{study}", priority="bulk")
        left -= len(wanted)


def _another(image: DeliveryItem) -> DeliveryItem:
    """Give the same object under another name."""
    return image.model_copy(update={"sop_instance_uid": f"2.25.{uuid4().int}"})


async def _overtaken(egress: Stand, image: DeliveryItem, destination: Destination) -> int:
    """Hand in a stat study of one object; tell how many others arrive between that and its arrival."""
    stat = _another(image)
    await egress.request([stat], study="1.3", priority="stat")
    before = len(destination.record.received)
    await _until(lambda: stat.sop_instance_uid in destination.record.confirmed(), "the stat study")
    [place] = [each.order for each in destination.record.received if each.sop_uid == stat.sop_instance_uid]
    return place - before - 1


async def _in_vain(egress: Stand) -> int:
    """Count attempts of instances that ended without a success."""
    return sum(each.attempts - (each.state == "sent") for each in await egress.items())


async def _until(done: Callable[[], bool], what: str) -> None:
    await asyncio.to_thread(wait_until, done, what, _PATIENCE_S)


def _at_most_one(name: str, value: float) -> Figure:
    return Figure(f"384 kbit/s, 715 ms, CT: {name}", "objects", value, (value, value), goal="<= 1", met=value <= 1)
