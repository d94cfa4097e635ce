"""HL7: orders acknowledged a second by one process, durably, how long each waits for that and for its place on the
worklist; what reading one costs. The process is a whole Kivuko with SQLite first, then a cluster's worklist.

Each order is of a patient and with numbers of its own. They come at a fixed pace over several connections; the time
of one runs from when it was due to its whole answer, so that what is late makes the next one late as well.
"""

import asyncio
import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from pathlib import Path
from statistics import quantiles
from typing import Final

import hl7 as peer
from rich.progress import Progress, TaskID

from libs.hl7.charset import decode
from libs.hl7.message import parse
from libs.hl7.mllp import END, START
from services.worklist.hl7 import interpret
from tests.bench.figure import Figure, at_least, at_most, beside, measured
from tests.bench.worklist import ask, with_accession
from tests.support.kivuko import System, cluster, embedded
from tests.support.postgresql import PostgreSQL
from tests.support.rabbitmq import RabbitMQ
from tests.unit.worklist.hl7_reading import NOON, sender

_ROUNDS: Final = 3
_RATE: Final = 500
#: A pace that may last: far above what a country's hospitals order.
_LASTING: Final = 100
_SECONDS: Final = 4
#: Orders of a round that are looked for on the worklist.
_SHOWN: Final = 20
_MOST_SHOWN_MS: Final = 1000
_CONNECTIONS: Final = 32
_READ: Final = 300
_MOST_MS: Final = 100
_NETWORK: Final = """
kivuko: 1
name: bench
timezone: Africa/Malabo
sites: {malabo: {name: Malabo}}
nodes:
  RIS: {site: malabo, host: 127.0.0.1, hl7: {}}
  CT1: {site: malabo, host: 10.0.0.1, modality: CT, may: [worklist]}
  BENCH: {site: malabo, host: 127.0.0.1, may: [worklist]}
"""


def run(progress: Progress) -> list[Figure]:
    """Send orders at a pace, and as fast as they are answered; read one here, beside the package `hl7`."""
    task = progress.add_task("hl7: rounds", total=5 * _ROUNDS)
    with tempfile.TemporaryDirectory() as name, ExitStack() as servers:
        # For all to read: the servers of the cluster are run by others.
        folder = Path(name)
        folder.chmod(0o755)
        figures = _taken(embedded(folder / "embedded"), "with all services in one process: ", progress, task)
        rabbitmq, postgresql = RabbitMQ(folder / "rabbitmq"), PostgreSQL(folder / "postgresql")
        for server in (rabbitmq, postgresql):
            servers.callback(server.stop)
            server.start()
        objects = (folder / "objects").as_uri()
        whole = cluster(folder / "cluster", rabbitmq.vhost(), postgresql.database(), objects)
        servers.callback(whole.kill)
        alone = System("cluster", {name: whole.processes[name] for name in ("network", "worklist")})
        figures += _taken(alone, "a cluster's worklist: ", progress, task)
    ours, theirs = [], []
    for _ in range(_ROUNDS):
        ours.append(_per_second(lambda raw: parse(decode(raw, "ASCII"))))
        theirs.append(_per_second(lambda raw: peer.parse(raw.decode())))
        progress.advance(task)
    given = sender()
    read = [_per_second(lambda raw: interpret(parse(decode(raw, "ASCII")), given, NOON)) for _ in range(_ROUNDS)]
    return [
        *figures,
        beside("messages of 1.5 kB taken apart", "1/s", ours, "hl7", theirs, least=1),
        measured("the same, with all that the mapping makes of them", "1/s", read),
    ]


def _taken(system: System, prefix: str, progress: Progress, task: TaskID) -> list[Figure]:
    """Send to a worklist, at the pace and without."""
    numbers = itertools.count(1)
    fastest: list[float] = []
    paced: dict[int, tuple[list[float], list[float]]] = {_LASTING: ([], []), _RATE: ([], [])}
    system.start()
    try:
        system.apply(_NETWORK)
        addresses = system.of("worklist").addresses
        asyncio.run(_unpaced(addresses["hl7"], numbers))
        for _ in range(_ROUNDS):
            for rate, (late, seen) in paced.items():
                times, shown = asyncio.run(_paced(addresses, numbers, rate))
                late.append(quantiles(times, n=100)[98] * 1000)
                seen.append(max(shown) * 1000)
            progress.advance(task)
        for _ in range(_ROUNDS):
            fastest.append(asyncio.run(_unpaced(addresses["hl7"], numbers)))
            progress.advance(task)
    finally:
        system.kill()
    figures = [at_least(f"{prefix}orders acknowledged durably, as fast as they go", "1/s", fastest, _RATE)]
    for rate, (late, seen) in paced.items():
        figures += [
            at_most(f"{prefix}time to the acknowledgement at {rate}/s: p99", "ms", late, _MOST_MS),
            at_most(f"{prefix}from order to worklist at {rate}/s: latest of {_SHOWN}", "ms", seen, _MOST_SHOWN_MS),
        ]
    return figures


def order(number: int) -> bytes:
    """Make an order of 1.5 kB."""
    comments = [f"NTE|{line}||{'history of the patient, as the ward has written it down ' * 3}" for line in range(1, 5)]
    lines = [
        rf"MSH|^~\&|RIS|MALABO|KIVUKO|HUB|20261120101530||OMI^O23^OMI_O23|M{number}|P|2.5.1||||||UNICODE UTF-8",
        f"PID|||P{number}^^^HGM^MR~N{number}^^^GQ^NI||Nguema^Ana{number}||19700101|F|||Calle 1^^Malabo^^240^GQ",
        "PV1||I|WARD^12^A|||||1234^Obiang^Juan^^^Dr|||||||||||V77",
        f"ORC|NW|PL{number}^RIS|FI{number}^RIS||SC|||||||99^Ondo^Pilar",
        "TQ1|1||||||20261120110000+0100||R",
        rf"OBR|1|PL{number}^RIS|FI{number}^RIS|CTH^CT Head \T\ Neck^99RIS||||||||||||||||||||CT|||||||R51^Headache^I10",
        "OBX|1|NM|3142-7^BODY WEIGHT^LN||72500|g",
        *comments,
        f"IPC|ACC{number}|RP{number}|1.2.826.0.1.3680043.2.{number}|SPS{number}|CT|CTH^CT Head^99RIS|||CT1",
    ]
    return "\r".join([*lines, ""]).encode()


async def _paced(addresses: Mapping[str, str], numbers: Iterator[int], rate: int) -> tuple[list[float], list[float]]:
    """Send at the pace; give the seconds that each order took, and those until some of them were on the worklist."""
    start = time.perf_counter() + 0.1
    count = rate * _SECONDS
    looking: list[asyncio.Task[float]] = []

    async def line(first: int) -> list[float]:
        reader, writer = await _connected(addresses["hl7"])
        times = []
        for place in range(first, count, _CONNECTIONS):
            due = start + place / rate
            await asyncio.sleep(max(0.0, due - time.perf_counter()))
            number = next(numbers)
            if place % (count // _SHOWN) == 0:
                looking.append(asyncio.create_task(asyncio.to_thread(_shown, addresses["worklist"], number, due)))
            await _ask(reader, writer, order(number))
            times.append(time.perf_counter() - due)
        writer.close()
        return times

    found = await asyncio.gather(*(line(first) for first in range(_CONNECTIONS)))
    return [each for times in found for each in times], list(await asyncio.gather(*looking))


def _shown(address: str, number: int, due: float) -> float:
    """Ask as a modality until the order is there; give the seconds since it was due."""
    port = int(address.rpartition(":")[2])
    while ask(port, with_accession(f"ACC{number}")) == 0:
        time.sleep(0.05)
    return time.perf_counter() - due


async def _unpaced(address: str, numbers: Iterator[int]) -> float:
    """Send as fast as it is answered, and give orders a second."""
    count = 30

    async def line() -> None:
        reader, writer = await _connected(address)
        for _ in range(count):
            await _ask(reader, writer, order(next(numbers)))
        writer.close()

    start = time.perf_counter()
    await asyncio.gather(*(line() for _ in range(_CONNECTIONS)))
    return count * _CONNECTIONS / (time.perf_counter() - start)


async def _connected(address: str) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, _, port = address.rpartition(":")
    return await asyncio.open_connection(host, int(port))


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, raw: bytes) -> None:
    writer.write(START + raw + END)
    answer = await reader.readuntil(END)
    if b"\rMSA|AA|" not in answer:
        raise RuntimeError("an order was not acknowledged")


def _per_second(read: Callable[[bytes], object]) -> float:
    made = [order(number) for number in range(_READ)]
    start = time.thread_time()
    for raw in made:
        read(raw)
    return _READ / (time.thread_time() - start)
