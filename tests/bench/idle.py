"""An embedded Kivuko with nothing to do: start, memory, processor time."""

import tempfile
import time
from pathlib import Path

import psutil
from rich.progress import Progress

from tests.bench.figure import Figure, at_most
from tests.support.kivuko import embedded

_STARTS = 5
_IDLE_S = 30


def run(progress: Progress) -> list[Figure]:
    """Start it five times; leave the last one alone for 30 s."""
    starts: list[float] = []
    task = progress.add_task("idle: starts", total=_STARTS)
    with tempfile.TemporaryDirectory() as folder:
        system = embedded(Path(folder))
        process = system.of("all")
        for number in range(_STARTS):
            before = time.perf_counter()
            process.start()
            starts.append(time.perf_counter() - before)
            progress.advance(task)
            if number < _STARTS - 1:
                process.stop()
        memory, share = _watch(process.pid, progress)
        process.stop()
    return [
        at_most("start to ready", "s", starts, 5),
        at_most("resident memory, idle", "MB", memory, 300),
        at_most("processor time, idle", "%", share, 2),
    ]


def _watch(pid: int, progress: Progress) -> tuple[list[float], list[float]]:
    process = psutil.Process(pid)
    family = [process, *process.children(recursive=True)]
    memory: list[float] = []
    share: list[float] = []
    task = progress.add_task("idle: at rest", total=_IDLE_S)
    time.sleep(2)  # what the start itself left to do is not idling
    for _ in range(_IDLE_S // 5):
        before, at = sum(_cpu(each) for each in family), time.perf_counter()
        time.sleep(5)
        share.append(100 * (sum(_cpu(each) for each in family) - before) / (time.perf_counter() - at))
        memory.append(sum(each.memory_info().rss for each in family) / 1e6)
        progress.advance(task, 5)
    return memory, share


def _cpu(process: psutil.Process) -> float:
    times = process.cpu_times()
    return float(times.user + times.system)
