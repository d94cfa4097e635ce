"""The same receivers, sent to by dcmtk's own programs: slower than the raw sender, but nobody here wrote them."""

import os
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

from rich.progress import Progress

from tests.bench.target import Target
from tests.support.dcmtk import ENVIRONMENT
from tests.support.process import program
from tests.support.sender import Kind, Sent
from tests.support.synthetic import part10
from tests.support.template import SYNTAX, ct512, small, uid

_COUNTS: dict[Kind, int] = {"ct512": 100, "small": 400}
_RECEIVERS = ("Kivuko", "storescp", "Orthanc")
_SENDERS = ("storescu", "dcmsend")


def dcmtk_rounds(
    progress: Progress, found: dict[str, Target], folder: Path, rounds: int
) -> dict[tuple[Kind, str, str], list[float]]:
    """Give instances/s of each round by load, sender and receiver. The programs' own start is part of it."""
    cases = [(kind, sender, name) for kind in _COUNTS for sender in _SENDERS for name in _RECEIVERS]
    results: dict[tuple[Kind, str, str], list[float]] = {case: [] for case in cases}
    task = progress.add_task("ingest: dcmtk's senders", total=len(cases) * rounds)
    for _ in range(rounds):
        for kind, sender, name in cases:
            with TemporaryDirectory(dir=folder) as files:
                study = _write(Path(files), kind)
                os.sync()
                results[kind, sender, name].append(_COUNTS[kind] / _seconds(found[name], sender, Path(files), study))
            progress.advance(task)
    return results


def _seconds(target: Target, sender: str, files: Path, study: str) -> float:
    called = ["-aec", target.called, "-aet", "STORESCU", "127.0.0.1", str(target.port)]
    commands: dict[str, Sequence[str]] = {
        "storescu": [program("storescu", "dcmtk"), "-xe", "+sd", *called, str(files)],
        "dcmsend": [program("dcmsend", "dcmtk"), "+sd", *called, str(files)],
    }
    began = time.monotonic()
    subprocess.run(
        commands[sender], env={**os.environ, **ENVIRONMENT}, check=True, capture_output=True, timeout=240, text=True
    )
    count = len(list(files.iterdir()))
    sent = Sent(began=began, ended=time.monotonic(), responses=[], size=0, studies=[study])
    done = target.done(sent, count)
    target.settle(sent)
    return done - began


def _write(folder: Path, kind: Kind) -> str:
    template = {"ct512": ct512, "small": small}[kind]()
    image, base = template.image(), uuid4().int >> 32 << 20
    study = uid(base)
    for number in range(1, _COUNTS[kind] + 1):
        image.become(study, uid(base + 1), uid(base + 1 + number), number)
        data = part10(bytes(image.dataset), sop_class=image.sop_class, sop_uid=image.sop_uid, transfer_syntax=SYNTAX)
        (folder / f"{number}.dcm").write_bytes(data)
    return study
