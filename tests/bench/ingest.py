"""Receiving at wire speed: this project beside dcmtk, Orthanc and pynetdicom, the same sender for all.

The clock runs from before the first association until all that the receiver does is done: for Kivuko until every
instance is indexed and every event is in the bus, for the others until the last response.

While working on it, ask for a part::

    python -m tests.bench.ingest                                    everything, as `make bench ONLY=ingest`
    python -m tests.bench.ingest --quick                            one small round of everything
    python -m tests.bench.ingest --quick -t Kivuko -l small -a 8    one receiver, load and number of associations
    python -m tests.bench.ingest -t Kivuko -t storescp -a 1 -r 5    two beside each other, five rounds

Such a part prints one line for each receiver and load, and writes no file.
"""

import argparse
import hashlib
import os
import statistics
import tempfile
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.bench.dcmtk_sender import dcmtk_rounds
from tests.bench.figure import Figure, at_least, beside, measured
from tests.bench.gauge import Gauge
from tests.bench.target import Target, targets
from tests.support.sender import Kind, Load, Sender

ROUNDS = 3
ASSOCIATIONS = (1, 8, 32)
_COUNTS: dict[Kind, int] = {"ct512": 256, "small": 2048}
#: Instances of each association at least: its study is one of ordinary size however many send.
_EACH: dict[Kind, int] = {"ct512": 32, "small": 64}
_NAMES: dict[Kind, str] = {"ct512": "CT 512x512", "small": "small 64x64"}
#: Receivers that are so slow that they are sent less.
_SLOW = ("pynetdicom", "pynetdicom nodelay", "Orthanc")
#: Least ratio to a peer that was set out for.
_GOALS: dict[tuple[Kind, str], float] = {
    ("ct512", "storescp"): 1.0,
    ("ct512", "Orthanc"): 3.5,
    ("small", "storescp"): 0.8,
    ("small", "Orthanc"): 3.0,
}
_SCALING_GOAL = 0.9
#: Of one CT.
_CT_BYTES = 2 * 512 * 512


@dataclass(frozen=True)
class Case:
    """One load on one receiver."""

    target: str
    kind: Kind
    associations: int


@dataclass(frozen=True)
class Round:
    """What one round found; `_MEASURES` says what each is."""

    rate: float
    answered: float
    megabytes: float
    p95: float
    cpu: float
    memory: float


_MEASURES = {
    "rate": ("done", "instances/s"),
    "answered": ("answered", "instances/s"),
    "megabytes": ("done", "MB/s"),
    "p95": ("response, p95", "ms"),
    "cpu": ("processor, 1000 instances", "s"),
    "memory": ("peak memory", "MB"),
}


def run(progress: Progress) -> list[Figure]:
    """Measure everything."""
    with tempfile.TemporaryDirectory(prefix="kivuko-bench-") as folder, Sender() as sender:
        found = targets(Path(folder))
        cases = [Case(name, kind, many) for kind in _COUNTS for many in ASSOCIATIONS for name in found]
        try:
            _start(found.values())
            rounds = measure(progress, sender, found, cases, rounds=ROUNDS)
            with_dcmtk = dcmtk_rounds(progress, found, Path(folder), ROUNDS)
        finally:
            _stop(found.values())
    return [*_figures(rounds, list(found)), *_scaling(rounds), *_with_dcmtk(with_dcmtk), _hashing()]


def measure(
    progress: Progress, sender: Sender, found: dict[str, Target], cases: Sequence[Case], *, rounds: int
) -> dict[Case, list[Round]]:
    """Take the cases in turn, `rounds` times, after one small round each that isn't counted."""
    results: dict[Case, list[Round]] = {case: [] for case in cases}
    task = progress.add_task("ingest: warming up", total=len(cases) * rounds)
    for name in dict.fromkeys(case.target for case in cases):
        _round(sender, found[name], Load(found[name].port, "small", 64, 1))
    for number in range(1, rounds + 1):
        for case in cases:
            said = f"ingest: round {number}, {_NAMES[case.kind]}, {case.associations} associations, {case.target}"
            progress.update(task, description=said)
            many = max(_COUNTS[case.kind] // case.associations, _EACH[case.kind]) * case.associations
            if case.target in _SLOW:
                many = max(1, many // 2 // case.associations) * case.associations
            target = found[case.target]
            results[case].append(_round(sender, target, Load(target.port, case.kind, many, case.associations)))
            progress.advance(task)
    return results


def _round(sender: Sender, target: Target, load: Load) -> Round:
    # What the one before has left to write must not fall into this one's time.
    os.sync()
    with Gauge(target.pid) as gauge:
        sent = sender.send(replace(load, called=target.called))
        done = target.done(sent, load.count)
    target.settle(sent)
    seconds = done - sent.began
    return Round(
        rate=load.count / seconds,
        answered=load.count / (sent.ended - sent.began),
        megabytes=sent.size / 1e6 / seconds,
        p95=statistics.quantiles(sent.responses, n=20)[-1] * 1e3,
        cpu=gauge.cpu / load.count * 1e3,
        memory=gauge.peak / 1e6,
    )


def _start(found: Iterable[Target]) -> None:
    for target in found:
        target.start()


def _stop(found: Iterable[Target]) -> None:
    for target in found:
        target.stop()


def _figures(rounds: dict[Case, list[Round]], names: Sequence[str]) -> list[Figure]:
    figures = []
    for kind, label in _NAMES.items():
        for many in ASSOCIATIONS:
            place = f"{label}, {many} association{'s' if many > 1 else ''}"
            ours = rounds[Case("Kivuko", kind, many)]
            for peer in names[1:]:
                theirs, least = rounds[Case(peer, kind, many)], _GOALS.get((kind, peer))
                for field, (what, unit) in _MEASURES.items():
                    figures.append(
                        beside(
                            f"{place}: {what}",
                            unit,
                            [getattr(each, field) for each in ours],
                            peer,
                            [getattr(each, field) for each in theirs],
                            least=least if field == "rate" else None,
                        )
                    )
    return figures


def _scaling(rounds: dict[Case, list[Round]]) -> list[Figure]:
    figures = []
    for kind, label in _NAMES.items():
        one, most = (rounds[Case("Kivuko", kind, many)] for many in (ASSOCIATIONS[0], ASSOCIATIONS[-1]))
        # Round by round: what disturbed a round disturbed both.
        ratios = [wide.rate / narrow.rate for wide, narrow in zip(most, one, strict=True)]
        figures.append(at_least(f"{label}: 32 associations over 1", "x", ratios, _SCALING_GOAL))
    return figures


def _with_dcmtk(rounds: dict[tuple[Kind, str, str], list[float]]) -> list[Figure]:
    return [
        beside(
            f"{_NAMES[kind]}, 1 association of {sender}: done",
            "instances/s",
            rounds[kind, sender, "Kivuko"],
            peer,
            found,
            least=_GOALS.get((kind, peer)),
        )
        for (kind, sender, peer), found in rounds.items()
        if peer != "Kivuko"
    ]


def _hashing() -> Figure:
    """Tell what the hash of a CT alone costs: processors differ by a factor of five, and no peer has to pay it."""
    data = os.urandom(_CT_BYTES)
    rounds = []
    for _ in range(50):
        began = time.perf_counter()
        hashlib.sha256(data).digest()
        rounds.append((time.perf_counter() - began) * 1e3)
    return measured("CT 512x512: SHA-256 of one, nothing else at work", "ms", rounds)


def main() -> None:
    """Measure a part, or everything in small."""
    console = Console(width=200)
    parser = argparse.ArgumentParser(description="Measures a part of the benchmark of ingest.")
    parser.add_argument("-t", "--target", action="append", help="Kivuko, storescp, Orthanc and so on; several times")
    parser.add_argument("-l", "--load", action="append", choices=list(_COUNTS), help="several times")
    parser.add_argument("-a", "--associations", action="append", type=int, help="several times")
    parser.add_argument("-r", "--rounds", type=int, default=ROUNDS)
    parser.add_argument("--quick", action="store_true", help="one round")
    asked = parser.parse_args()
    rounds = 1 if asked.quick else asked.rounds
    with (
        tempfile.TemporaryDirectory(prefix="kivuko-bench-") as folder,
        Sender() as sender,
        Progress(console=Console(stderr=True), transient=True) as progress,
    ):
        known = targets(Path(folder))
        names = asked.target or list(known)
        if unknown := set(names) - set(known):
            parser.error(f"there is no receiver {min(unknown)!r}: take of {', '.join(known)}")
        cases = [
            Case(name, kind, many)
            for kind in asked.load or _COUNTS
            for many in asked.associations or ASSOCIATIONS
            for name in names
        ]
        chosen = {name: known[name] for name in names}
        try:
            _start(chosen.values())
            found = measure(progress, sender, chosen, cases, rounds=rounds)
        finally:
            _stop(chosen.values())
    console.print(table(found))


def table(found: dict[Case, list[Round]]) -> Table:
    """Give one line for each case: the median, and the smallest and largest of several rounds."""
    made = Table("load", "associations", "receiver", box=None, pad_edge=False)
    for what, unit in _MEASURES.values():
        made.add_column(f"{what}, {unit}", no_wrap=True)
    for case, rounds in found.items():
        cells = [_cell([getattr(each, field) for each in rounds]) for field in _MEASURES]
        made.add_row(case.kind, str(case.associations), case.target, *cells)
    return made


def _cell(values: Sequence[float]) -> str:
    spread = "" if len(values) == 1 else f" ({min(values):.3g}-{max(values):.3g})"
    return f"{statistics.median(values):.4g}{spread}"


if __name__ == "__main__":
    main()
