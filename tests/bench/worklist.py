"""Worklist queries: station, date and modality, each as a whole association, beside dcmtk's wlmscpfs."""

import multiprocessing
import random
import re
import socket
import struct
import subprocess
import sys
import time
from pathlib import Path
from statistics import quantiles
from tempfile import TemporaryDirectory
from typing import Final

from rich.progress import Progress

from libs.dimse import command as commands
from libs.dimse.negotiation import Proposed, Request
from libs.dimse.requestor import Association, Patience
from services.worklist.answer import answer
from services.worklist.identifier import decode
from services.worklist.query import Query
from tests.bench.figure import Figure, at_least, at_most, beside, measured
from tests.bench.worklist_server import A_DAY, DAYS, MODALITIES, items, station
from tests.support.worklist import WlmScp

_ITEMS: Final = 100_000
_PEER_ITEMS: Final = 10_000
_ROUNDS: Final = 5
_QUERIES: Final = 100
_PEER_QUERIES: Final = 5
_FIRST: Final = 200
_SEED: Final = 99
_CALLERS: Final = 2
_SECONDS: Final = 5.0
_MOST_MS: Final = 25
_LEAST_RATE: Final = 200
_LEAST_RATIO: Final = 15
_WORKLIST: Final = "1.2.840.10008.5.1.4.31"
_IMPLICIT: Final = "1.2.840.10008.1.2"


def run(progress: Progress) -> list[Figure]:
    """Ask both in turn, then ours as fast as it goes."""
    task = progress.add_task("worklist: rounds", total=_ITEMS // 5000 + 2 * _ROUNDS)
    with TemporaryDirectory() as folder:
        peer = _peer(Path(folder) / "wlm")
        command = [sys.executable, "-m", "tests.bench.worklist_server", folder, str(_ITEMS)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdin is not None
            assert server.stdout is not None
            port = 0
            for line in server.stdout:
                progress.advance(task)
                if line.startswith("port "):
                    port = int(line.split()[1])
                    break
            memory = _resident(server.pid)
            median, late, theirs, rates = [], [], [], []
            first = _times(port, _ITEMS, _FIRST, _SEED, today=False)
            for number in range(_ROUNDS):
                ours = _times(port, _ITEMS, _QUERIES, number)
                cuts = quantiles(ours, n=20)
                median.append(cuts[9])
                late.append(cuts[18])
                theirs.append(sorted(_times(peer.port, _PEER_ITEMS, _PEER_QUERIES, number))[_PEER_QUERIES // 2])
                progress.advance(task)
            for number in range(_ROUNDS):
                rates.append(_rate(port, number))
                progress.advance(task)
            after = _resident(server.pid)
            server.stdin.close()
            server.wait()
        peer.stop()
    speed = beside(
        f"a query as a whole association, {_ITEMS} items, beside {_PEER_ITEMS}",
        "/s",
        [1000 / each for each in median],
        "wlmscpfs",
        [1000 / each for each in theirs],
        least=_LEAST_RATIO,
    )
    return [
        at_most(f"a query (station, date, modality) of {_ITEMS} items, {A_DAY} match: p95", "ms", late, _MOST_MS),
        measured("the same: median", "ms", median),
        measured("the same of a station and day that nobody asked for before: p95", "ms", [quantiles(first, n=20)[18]]),
        speed,
        at_least(f"queries of {_CALLERS} callers to one process", "/s", rates, _LEAST_RATE),
        measured(f"resident memory with {_ITEMS} items", "MB", [memory]),
        measured("the same after all queries", "MB", [after]),
    ]


def _peer(folder: Path) -> WlmScp:
    peer = WlmScp(folder, aet="KIVUKO")
    # All that any query of this benchmark asks for, as it stands in a file.
    whole = Query(decode(identifier(0, everything=True), _IMPLICIT))
    for number, item in enumerate(items(_PEER_ITEMS)):
        (peer.files / f"item{number}.wl").write_bytes(answer(whole, item, _IMPLICIT, ("ISO_IR 100",)).dataset)
    peer.start()
    return peer


def _times(port: int, count: int, queries: int, seed: int, *, today: bool = True) -> list[float]:
    """Ask so many times, for today or for any day; give the milliseconds of each association."""
    chance = random.Random(seed)
    found = []
    for _ in range(queries):
        place = chance.randrange(count // A_DAY)
        place -= place % DAYS if today else 0
        began = time.perf_counter()
        matches = ask(port, identifier(place))
        found.append((time.perf_counter() - began) * 1000)
        if matches != A_DAY:
            raise AssertionError(f"{matches} items in place of {A_DAY}")
    return found


def _rate(port: int, seed: int) -> float:
    with multiprocessing.get_context("spawn").Pool(_CALLERS) as pool:
        # They load first.
        pool.map(_asking, [(port, 0.1, number) for number in range(_CALLERS)])
        return sum(pool.map(_asking, [(port, _SECONDS, seed * _CALLERS + number) for number in range(_CALLERS)]))


def _asking(given: tuple[int, float, int]) -> float:
    port, seconds, seed = given
    chance = random.Random(seed)
    began = time.perf_counter()
    asked = 0
    while (took := time.perf_counter() - began) < seconds:
        ask(port, identifier(chance.randrange(_ITEMS // A_DAY // DAYS) * DAYS))
        asked += 1
    return asked / took


def ask(port: int, keys: bytes) -> int:
    """Ask once, as a modality does: an association of its own. Gives how many items were returned."""
    connected = socket.create_connection(("127.0.0.1", port))
    connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    association = Association(connected, Patience(acse=30, response=120, network=60))
    association.ask(Request("KIVUKO", "BENCH", (Proposed(1, _WORKLIST, (_IMPLICIT,)),), 1 << 16, "1.2.3.4"))
    association.send(1, commands.find_request(1, _WORKLIST), (keys,))
    matches = 0
    while (message := association.receive()).command.status in (commands.PENDING, commands.PENDING_WARNING):
        matches += message.dataset is not None
    if message.command.status != commands.SUCCESS:
        raise AssertionError(f"status {message.command.status:04X}")
    association.release()
    return matches


def identifier(place: int, *, everything: bool = False) -> bytes:
    """Give the keys of a typical query: a station on a day, by its place among all; or the same without values."""
    day, of = place % DAYS, place // DAYS
    date = f"2026{11 if day < 9 else 12}{22 + day if day < 9 else day - 8:02}"
    step = _written(
        {
            0x0008_0060: "" if everything else MODALITIES[of % len(MODALITIES)],
            0x0040_0001: "" if everything else station(of),
            0x0040_0002: "" if everything else date,
            **dict.fromkeys((0x0040_0003, 0x0040_0006, 0x0040_0007, 0x0040_0008, 0x0040_0009, 0x0040_0010), ""),
        }
    )
    steps = struct.pack("<HHI", 0xFFFE, 0xE000, len(step)) + step
    tags = (0x0008_0050, 0x0008_0090, 0x0010_0010, 0x0010_0020, 0x0010_0021, 0x0010_0030, 0x0010_0040, 0x0010_1030,
            0x0010_2000, 0x0010_2110, 0x0010_21C0, 0x0020_000D, 0x0032_1032, 0x0032_1060, 0x0032_1064, 0x0038_0010,
            0x0038_0300, 0x0040_1001, 0x0040_1003, 0x0040_2016, 0x0040_2017)  # fmt: skip
    keys: dict[int, str | bytes] = {**dict.fromkeys(tags, ""), 0x0040_0100: steps}
    return _written(keys)


def with_accession(number: str) -> bytes:
    """Give the keys of a query for an accession number."""
    return _written({0x0008_0050: number, 0x0010_0010: "", 0x0010_0020: "", 0x0020_000D: ""})


def _written(keys: "dict[int, str] | dict[int, str | bytes]") -> bytes:
    parts = []
    for tag, text in sorted(keys.items()):
        value = text if isinstance(text, bytes) else text.encode() + b" " * (len(text) % 2)
        parts.append(struct.pack("<HHI", tag >> 16, tag & 0xFFFF, len(value)) + value)
    return b"".join(parts)


def _resident(pid: int) -> float:
    found = re.search(r"VmRSS:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text())
    return int(found[1]) / 1000 if found else 0.0
