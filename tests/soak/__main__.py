"""`python -m tests.soak [--kills N] [--egress-kills N] [--away SECONDS]`: what tests do a few times, done many times.

Kills at random under eight senders, half of them of single receivers or during a start; kills of replicas of egress
(`tests/soak/egress.py`); then an object store that is away for a minute, in both acknowledgement modes. Ends with 1
when anything was lost, left over or early.
"""

import argparse
import random
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from rich.console import Console
from rich.progress import Progress

from tests.soak import egress
from tests.support.kivuko import embedded
from tests.support.outage import store_away
from tests.support.seaweedfs import SeaweedFS
from tests.support.storm import storm

_CONSOLE = Console(stderr=True)
_SHOWN = 20
_SENDERS = 8
_BETWEEN = 16


def main() -> int:
    """Run it all; gives the exit status."""
    parser = argparse.ArgumentParser(description="Kills and outages under load.")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--egress-kills", type=int, default=200, help="0 leaves them out")
    parser.add_argument("--away", type=float, default=60, help="seconds without the object store; 0 leaves it out")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    asked = parser.parse_args()
    _CONSOLE.print(f"seed {asked.seed}")
    choice = random.Random(asked.seed)
    sound = _said(f"{asked.kills} kills", lambda folder: _kills(folder, asked.kills, choice))
    if asked.egress_kills:
        sound &= _said(
            f"{asked.egress_kills} kills of egress", lambda folder: _egress_kills(folder, asked.egress_kills, choice)
        )
    if asked.away:
        sound &= _said(f"no store, {asked.away:g} s, ack=spool", lambda at: _away(at, "spool", asked.away, choice))
        sound &= _said(
            f"no store, {asked.away:g} s, ack=object-store", lambda at: _away(at, "object-store", asked.away, choice)
        )
    return 0 if sound else 1


def _said(name: str, trial: Callable[[Path], list[str]]) -> bool:
    folder = Path(tempfile.mkdtemp(prefix="kivuko-soak-"))
    found = trial(folder)
    for each in found[:_SHOWN]:
        _CONSOLE.print(f"  {each}", highlight=False)
    _CONSOLE.print(f"{name}: {f'{len(found)} faults; its files are in {folder}' if found else 'nothing amiss'}")
    if not found:
        shutil.rmtree(folder)
    return not found


def _kills(folder: Path, kills: int, choice: random.Random) -> list[str]:
    system = embedded(folder, KIVUKO_INGEST_QUIET_SECONDS="1")
    killed: Counter[str] = Counter()
    with Progress(console=_CONSOLE, transient=True) as progress:
        task = progress.add_task("kills", total=kills)

        def told(what: str) -> None:
            killed[what] += 1
            progress.advance(task)

        try:
            found = storm(system, senders=_SENDERS, kills=kills, between=_BETWEEN, choice=choice, pace=0.1, told=told)
        finally:
            system.kill()
    _CONSOLE.print(f"killed: {dict(killed)}; {found.acknowledged} acknowledged, {found.versions} versions of studies")
    return found.faults


def _egress_kills(folder: Path, kills: int, choice: random.Random) -> list[str]:
    with Progress(console=_CONSOLE, transient=True) as progress:
        task = progress.add_task("kills of egress", total=kills)
        found = egress.on_postgresql(folder, kills, choice, lambda: progress.advance(task))
    _CONSOLE.print(egress.said(found))
    return found.faults


def _away(folder: Path, ack: Literal["spool", "object-store"], seconds: float, choice: random.Random) -> list[str]:
    s3 = SeaweedFS(folder / "s3")
    s3.start()
    objects = s3.bucket()
    system = embedded(folder, KIVUKO_ACK=ack, KIVUKO_OBJECTS_URL=objects, KIVUKO_INGEST_QUIET_SECONDS="1")
    try:
        return store_away(system, ack, s3, objects, choice, least_s=seconds)
    finally:
        system.kill()
        s3.stop()


if __name__ == "__main__":
    sys.exit(main())
