"""A destination's studies alone, beside nine destinations that behave, and beside nine that misbehave.

What a neighbour's work costs must not be taken for blocking: to send to one that warns of every object is real work,
and on two cores it delays others whoever does it. So studies come at a fixed pace, far below what the machine can do,
and two things are asked. Are all of them delivered at that pace, as they are alone? That is what a neighbour that
blocks would break. And is each of them, from wanted to recorded as delivered, as quick as beside nine that behave?
Those cost what work costs; whatever is slower than with them is the misbehaviour. How quick it is alone is shown as
well, with the processor time of each: the difference to that is the price of ten destinations on this machine, not of
bad ones.

Each of the nine wants as many studies as the one that is measured, at times of its own. Timeouts and waits are those
of production: who hangs does so for the whole round. The nine have a process of their own, as what they do is not to
cost the sender's interpreter anything; alone means that nobody wants anything of them.
"""

import asyncio
import multiprocessing
import random
import ssl
import statistics
import tempfile
import time
from collections.abc import Collection, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from datetime import datetime
from multiprocessing.connection import Connection
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import psutil
from pydicom.uid import generate_uid
from rich.progress import Progress
from sqlalchemy import Row, select

from contracts.definition import Snapshot
from contracts.delivery import DeliveryItem
from libs.clock import utc_now
from services.egress.models import deliveries
from services.egress.settings import EgressSettings
from tests.bench.figure import Figure, beside, measured
from tests.integration.egress.stand import Stand, network, stand
from tests.support.authority import Authority, Issued
from tests.support.behaviour import NEVER, SOONER_OR_LATER, Behaviour, Do, Fault, When
from tests.support.dcmtk import StoreScp
from tests.support.misbehaving import Destination
from tests.support.synthetic import make_study

_ROUNDS: Final = 4
_STUDIES, _INSTANCES, _PIXELS = 4, 10, 128
#: Seconds between two studies of a destination: some 60 instances a second for all ten together.
_PACE: Final = 1.6
_PATIENCE_S: Final = 60.0
#: No destination is slower by more than a tenth because of others.
_GOAL: Final = 0.9
_ALONE, _BEHAVE, _MISBEHAVE = "alone", "beside nine that behave", "beside nine that misbehave"
_KINDS: Final = (_ALONE, _BEHAVE, _MISBEHAVE)
#: The nine, by the keys of their destinations.
_NEIGHBOURS: Final[Mapping[str, Behaviour]] = {
    "hangs": Behaviour(Fault(Do.HANG, When.BETWEEN)),
    "aborts": SOONER_OR_LATER["aborts after two objects"],
    "out-of-resources": NEVER["out of resources (A700)"],
    "warns": SOONER_OR_LATER["warns (B000)"],
    "wrong-message-id": NEVER["answers with the wrong message id"],
    "resets": NEVER["resets in the middle of a dataset"],
    "implicit-only": SOONER_OR_LATER["takes implicit little endian only"],
    "accepts-nothing": NEVER["accepts no presentation context"],
    "expired": Behaviour(),
}
#: Those of them that must never be shown as having got anything.
_NOTHING_ARRIVES: Final = (
    "hangs",
    "out-of-resources",
    "wrong-message-id",
    "resets",
    "accepts-nothing",
    "expired",
)


@dataclass(frozen=True)
class Round:
    """What one round came to: instances a second, of all studies and of the typical one; s; processors in use."""

    throughput: float
    of_a_study: float
    slowest: float
    processors: float


class _Neighbours:
    """The nine, in a process of their own: begun and ended for each round.

    Parameters
    ----------
    good, expired
        Certificates of the one with TLS, when it behaves and when it does not.
    """

    def __init__(self, good: Issued, expired: Issued) -> None:
        self._pipe, theirs = multiprocessing.Pipe()
        # Not forked: this process has threads.
        self._process = multiprocessing.get_context("spawn").Process(
            target=_serve, args=(theirs, good, expired), daemon=True
        )

    def __enter__(self) -> Self:
        self._process.start()
        return self

    def begin(self, *, misbehave: bool) -> Mapping[str, int]:
        """Begin; give their ports by destination."""
        self._pipe.send(misbehave)
        ports: Mapping[str, int] = self._pipe.recv()
        return ports

    def end(self) -> None:
        """End, with every connection; raise if they saw the sender break the Standard."""
        self._pipe.send(None)
        if violations := self._pipe.recv():
            raise RuntimeError(f"the sender broke the Standard: {violations[0]}")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.join()


def _serve(pipe: Connection, good: Issued, expired: Issued) -> None:
    """Be the nine, round after round, until killed."""
    while True:
        misbehave = pipe.recv()
        with ExitStack() as stack:
            served = {
                key: stack.enter_context(
                    Destination(
                        behaviour if misbehave else Behaviour(),
                        tls=None if key != "expired" else expired if misbehave else good,
                    )
                )
                for key, behaviour in _NEIGHBOURS.items()
            }
            pipe.send({key: destination.port for key, destination in served.items()})
            pipe.recv()
        pipe.send([each for destination in served.values() for each in destination.record.violations])


def run(progress: Progress) -> list[Figure]:
    """Have the same studies sent alone, beside the good and beside the bad, in turn."""
    task = progress.add_task("neighbour: rounds", total=_ROUNDS * len(_KINDS))
    found: dict[str, list[Round]] = {kind: [] for kind in _KINDS}
    with tempfile.TemporaryDirectory(prefix="kivuko-neighbour-") as name:
        folder = Path(name)
        (folder / "files").mkdir()
        authority = Authority(folder / "authority")
        expired, valid = authority.issue("expired", days=-1), authority.issue("valid")
        context = ssl.create_default_context(cafile=authority.certificate)
        studies = {
            uid: make_study(folder / "files", _INSTANCES, study_uid=uid, rows=_PIXELS, cols=_PIXELS)
            for uid in (str(generate_uid()) for _ in range(_STUDIES + 1))
        }
        with _Neighbours(good=valid, expired=expired) as neighbours:
            for number in range(_ROUNDS):
                for kind, rounds in found.items():
                    played = _round(folder / f"{number}-{kind}", kind, studies, neighbours, context, number)
                    rounds.append(asyncio.run(played))
                    progress.advance(task)
    return _figures(found)


def _figures(found: Mapping[str, Sequence[Round]]) -> list[Figure]:
    alone, behave, bad = (found[kind] for kind in _KINDS)
    figures = []
    for what, pick, goal_alone, goal_behave in (
        ("all studies", lambda each: each.throughput, _GOAL, None),
        ("a study, wanted to delivered", lambda each: each.of_a_study, None, _GOAL),
    ):
        name, ours = f"{_MISBEHAVE}: {what}", list(map(pick, bad))
        figures.append(beside(name, "instances/s", ours, _ALONE, list(map(pick, alone)), least=goal_alone))
        figures.append(beside(name, "instances/s", ours, _BEHAVE, list(map(pick, behave)), least=goal_behave))
    for kind, rounds in found.items():
        figures.append(measured(f"{kind}: the slowest study", "s", [each.slowest for each in rounds]))
        figures.append(measured(f"{kind}: egress's processor", "cores", [each.processors for each in rounds]))
    return figures


async def _round(
    folder: Path,
    kind: str,
    studies: Mapping[str, Sequence[Path]],
    neighbours: _Neighbours,
    context: ssl.SSLContext,
    seed: int,
) -> Round:
    good = StoreScp(folder / "good")
    good.start()
    try:
        ports = neighbours.begin(misbehave=kind == _MISBEHAVE)
        snapshot = _definition(good.port, ports)
        async with stand(folder, snapshot, EgressSettings(), contexts=lambda _secret: lambda: context) as egress:
            kept = {uid: egress.keep(paths) for uid, paths in studies.items()}
            # The first one pays for what a process does once.
            first = next(iter(kept))
            await egress.request(kept.pop(first), study=first, destination="good")
            await _delivered(egress, {first})
            used, began = _processor_seconds(), time.perf_counter()
            wanted_at = await _want(egress, kept, () if kind == _ALONE else tuple(ports), seed)
            rows = await _delivered(egress, wanted_at.keys())
            processors = (_processor_seconds() - used) / (time.perf_counter() - began)
            if kind == _MISBEHAVE:
                await _look(egress)
            # Or else the end of egress would wait for those that hang.
            neighbours.end()
    finally:
        good.stop()
    if len(good.files()) != len(studies) * _INSTANCES:
        raise RuntimeError("what is shown as delivered has not arrived")
    seconds = [(row.completed_at - wanted_at[row.study_instance_uid]).total_seconds() for row in rows]
    whole = (max(row.completed_at for row in rows) - min(wanted_at.values())).total_seconds()
    return Round(_STUDIES * _INSTANCES / whole, _INSTANCES / statistics.median(seconds), max(seconds), processors)


def _processor_seconds() -> float:
    times = psutil.Process().cpu_times()
    return times.user + times.system


def _definition(good: int, neighbours: Mapping[str, int]) -> Snapshot:
    destinations: dict[str, dict[str, Any]] = {"good": {"node": "GOOD"}}
    nodes: dict[str, dict[str, Any]] = {"GOOD": {"port": good}}
    for number, (key, port) in enumerate(neighbours.items()):
        destinations[key] = {"node": f"NEIGHBOUR{number}"}
        nodes[f"NEIGHBOUR{number}"] = {"port": port} | ({"host": "localhost", "tls": True} if key == "expired" else {})
    return network(1, destinations, nodes)


async def _want(
    egress: Stand, kept: Mapping[str, Sequence[DeliveryItem]], neighbours: Sequence[str], seed: int
) -> dict[str, datetime]:
    """Have each study wanted at its time; give when each was wanted by the one that is measured."""
    chance = random.Random(seed)
    last = _PACE * _STUDIES
    plan = [(number * _PACE, "good", uid) for number, uid in enumerate(kept)]
    plan += [(chance.uniform(0, last), key, uid) for key in neighbours for uid in kept]
    began, wanted_at = time.perf_counter(), {}
    for at, destination, uid in sorted(plan):
        await asyncio.sleep(max(0.0, began + at - time.perf_counter()))
        now = utc_now()
        if destination == "good":
            wanted_at[uid] = now
        items = [each.model_copy(update={"received_at": now}) for each in kept[uid]]
        await egress.request(items, study=uid, destination=destination)
    return wanted_at


async def _delivered(egress: Stand, studies: Collection[str]) -> Sequence[Row[Any]]:
    """Wait until these studies are delivered, without looking so often that it costs anything."""
    gives_up = time.perf_counter() + _PATIENCE_S
    while True:
        rows = [row for row in await _done(egress, "good") if row.study_instance_uid in studies]
        if len(rows) == len(studies):
            return rows
        if time.perf_counter() > gives_up:
            raise RuntimeError(f"{len(rows)} of {len(studies)} studies were delivered in {_PATIENCE_S:g} s")
        await asyncio.sleep(0.1)


async def _done(egress: Stand, destination: str) -> Sequence[Row[Any]]:
    query = select(deliveries).where(deliveries.c.destination == destination, deliveries.c.state == "done")
    async with egress.database.reading() as tx:
        return (await tx.execute(query)).all()


async def _look(egress: Stand) -> None:
    for key in _NOTHING_ARRIVES:
        if await _done(egress, key):
            raise RuntimeError(f"a study is shown as delivered to {key}")
