"""Transforms per second and core, by kind: what one worker process does in one thread, files read and written."""

import tempfile
import time
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, BinaryIO, Final

from rich.progress import Progress

from contracts.definition import Transform
from services.egress.transforms import engine
from services.egress.transforms.engine import Step, keys_of
from services.egress.transforms.worker import quiet
from tests.bench import codecs
from tests.bench.figure import Figure, measured
from tests.support.synthetic import make_ct

_ROUNDS: Final = 5
_SECONDS: Final = 1.0
_AT: Final = datetime(2026, 11, 20, tzinfo=UTC)
_RESEARCH: Final = {"profile": "basic", "project": "p"}
KINDS: Final[Mapping[str, dict[str, Any]]] = {
    "set and prefix": {"set": {"IssuerOfPatientID": "BATA"}, "prefix": {"PatientID": "BATA-"}},
    "regex and map": {
        "regex": {"StudyDescription": {"find": r"(\w+) (\w+)", "replace": r"\2 \1"}},
        "map": {"BodyPartExamined": {"values": {"THORAX": "CHEST"}}},
    },
    "hash and UIDs": {"hash": ["PatientID"], "uids": "remap", "project": "p"},
    "de-identify": {"deidentify": _RESEARCH},
    "de-identify, clean descriptions, shift dates": {
        "deidentify": _RESEARCH | {"options": ["clean-descriptors", "shift-dates"]}
    },
    "de-identify and blank": {"deidentify": _RESEARCH, "blank": [{"areas": [[0, 0, 400, 40]]}]},
}


def run(progress: Progress) -> list[Figure]:
    """Measure changes of values, and then transfer syntaxes."""
    return [*_values(progress), *codecs.run(progress)]


def _values(progress: Progress) -> list[Figure]:
    """Transform one image after the other, by each kind in turn."""
    task = progress.add_task("transforms: rounds", total=len(KINDS) * _ROUNDS)
    quiet()
    with tempfile.TemporaryDirectory() as name:
        path = make_ct(Path(name), rows=512, cols=512)
        found: dict[str, list[float]] = {kind: [] for kind in KINDS}
        for _ in range(_ROUNDS):
            for kind, transform in KINDS.items():
                found[kind].append(_rate(path, [Step("t", Transform.model_validate(transform))]))
                progress.advance(task)
    return [measured(f"CT 512x512: {kind}", "instances/s of a core", rounds) for kind, rounds in found.items()]


def _rate(path: Path, steps: list[Step]) -> float:
    keys = keys_of({"p": b"0123456789abcdef0123456789abcdef"}, "default")
    _once(path, steps, keys)
    count, began, used = 0, time.monotonic(), time.process_time()
    while time.monotonic() - began < _SECONDS:
        _once(path, steps, keys)
        count += 1
    return count / (time.process_time() - used)


def _once(path: Path, steps: list[Step], keys: Any) -> None:
    def scratch() -> BinaryIO:
        return tempfile.TemporaryFile(dir=path.parent)

    with path.open("rb") as source, scratch() as result:
        engine.run(source, result, steps, keys, _AT, scratch)
