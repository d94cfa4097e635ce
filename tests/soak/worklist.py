"""`python -m tests.soak.worklist [--kills N] [--database postgresql]`: the worklist is killed at random under load.

Senders of HL7, some with TLS, some with several messages on their way or messages of 10 MB, and modalities that report
what they perform; killed while it works, amid a large message, and while it starts. After each kill, and once more at
the end, all that was answered is compared with what is there. Ends with 1 if anything is lost, there twice or by
halves, or answered otherwise than before.
"""

import argparse
import json
import random
import shutil
import ssl
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Literal

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.soak.worklist_book import Book
from tests.soak.worklist_judge import SOURCE, STATION, Judge, Looked
from tests.soak.worklist_senders import Gate, Interface, Large, Scanner
from tests.support.authority import Authority
from tests.support.kivuko import Process, System, cluster, embedded
from tests.support.postgresql import PostgreSQL
from tests.support.process import wait_until
from tests.support.rabbitmq import RabbitMQ

_CONSOLE = Console(stderr=True)
_SHOWN: Final = 20
_INTERFACES: Final = 8
_SCANNERS: Final = 3
#: A kill comes when so many more messages and requests are answered, at most.
_BETWEEN: Final = 120
_PATIENCE_S: Final = 120.0
#: A start takes about so long.
_START_S: Final = 4.0
_HERE: Final = {"site": "malabo", "host": "127.0.0.1"}
_NETWORK: Final = {
    "kivuko": 1,
    "name": "soak",
    "timezone": "Africa/Malabo",
    "sites": {"malabo": {"name": "Malabo"}},
    "nodes": {
        SOURCE: {**_HERE, "issuer": "HGM", "hl7": {}},
        STATION: {**_HERE, "modality": "CT", "may": ["worklist", "mpps"], "worklist": {"limit": 10_000}},
    },
}


@dataclass
class Found:
    """What became of it.

    Attributes
    ----------
    killed
        How often, by when.
    figures
        What there was, by name.
    faults
        What is amiss, as sentences.
    """

    killed: Counter[str] = field(default_factory=Counter)
    figures: dict[str, int] = field(default_factory=dict)
    faults: list[str] = field(default_factory=list)


class Storm:
    """One Kivuko, its senders, and who kills it.

    Parameters
    ----------
    system
        Makes it; hears the environment that it needs.
    database_url
        Of its services; none where it has tables of its own.
    """

    def __init__(
        self,
        folder: Path,
        system: Callable[[Mapping[str, str]], System],
        database_url: str | None,
        choice: random.Random,
    ) -> None:
        authority = Authority(folder / "authority")
        ours, theirs = authority.issue("kivuko"), authority.issue("ris")
        self._system = system(
            {
                "KIVUKO_HL7_TLS_PORT": "0",
                "KIVUKO_TLS_CERTIFICATE": str(ours.certificate),
                "KIVUKO_TLS_KEY": str(ours.key),
                "KIVUKO_TLS_CA": str(authority.certificate),
                "KIVUKO_INGEST_RECEIVERS": "1",
            }
        )
        self._process: Process = self._system.of("worklist")
        self._choice = choice
        self._large = Large()
        self.book = Book()
        self._gate = Gate(_INTERFACES + _SCANNERS)
        self.judge = Judge(self.book, database_url or f"sqlite:///{self._process.home / 'db'}")
        tls = ssl.create_default_context(cafile=str(authority.certificate))
        tls.load_cert_chain(theirs.certificate, theirs.key)
        self.interfaces = [
            Interface(
                self._gate,
                self.book,
                random.Random(choice.random()),
                partial(self._address, name),
                depth=(1, 1, 8, 3)[number % 4],
                large=self._large if number < _INTERFACES // 2 else None,
                tls=tls if name == "hl7-tls" else None,
            )
            for number, name in enumerate(("hl7", "hl7-tls", "hl7", "hl7-tls", "hl7", "hl7", "hl7-tls", "hl7"))
        ]
        self.scanners = [
            Scanner(self._gate, self.book, random.Random(choice.random()), self._port) for _ in range(_SCANNERS)
        ]
        self.killed: Counter[str] = Counter()

    def run(self, kills: int, told: Callable[[], None]) -> None:
        """Kill so many times, and judge each time."""
        senders = [*self.interfaces, *self.scanners]
        self._system.start()
        try:
            self._system.apply(json.dumps(_NETWORK))
            for each in senders:
                each.start()
            self._gate.open()
            for _ in range(kills):
                self._more(self._choice.randint(1, _BETWEEN))
                self._kill()
                self.judge.after_a_kill([each.lost for each in self.interfaces], self._port())
                self._gate.open()
                told()
            self._more(_BETWEEN)
            for each in senders:
                each.end()
            for each in senders:
                each.join(_PATIENCE_S)
            self.judge.at_the_end(self._port())
        finally:
            self._system.kill()

    def _address(self, name: str) -> str:
        return self._process.addresses[name]

    def _port(self) -> int:
        return int(self._address("worklist").rpartition(":")[2])

    def _answered(self) -> int:
        requests = (request for step in list(self.book.performed.values()) for request in step.requests)
        return sum(each.answers for each in list(self.book.messages.values())) + sum(each.answered for each in requests)

    def _more(self, count: int) -> None:
        wanted = self._answered() + count

        def done() -> bool:
            if not self._process.running:
                raise RuntimeError("Kivuko ended by itself: see its log")
            failed = [each.failure for each in (*self.interfaces, *self.scanners) if each.failure is not None]
            if failed:
                raise RuntimeError("a sender failed") from failed[0]
            return self._answered() >= wanted

        wait_until(done, f"{count} more answers", _PATIENCE_S)

    def _kill(self) -> None:
        """Kill it at a random moment, and start it again; at times it is killed while it starts."""
        # If nobody has come to send one by then, it is killed at work.
        amid = self._choice.random() < 0.3 and self._large.awaited(_PATIENCE_S / 10)
        self._gate.close()
        self._process.kill()
        self.killed["amid a large message" if amid else "at work"] += 1
        self._gate.all_wait(_PATIENCE_S)
        if self._choice.random() < 0.15:
            self._kill_while_starting()
        self._process.start()

    def _kill_while_starting(self) -> None:
        timer = threading.Timer(self._choice.random() * _START_S, self._process.kill)
        timer.start()
        with suppress(RuntimeError):  # that is what a start says whose process was killed
            self._process.start()
        timer.join()
        self._process.kill()
        self.killed["while it started"] += 1


def trial(storm: Storm, kills: int, told: Callable[[], None] = lambda: None) -> Found:
    """Kill so many times, then see what became of everything."""
    found = Found(killed=storm.killed)
    try:
        storm.run(kills, told)
    except (TimeoutError, RuntimeError) as error:
        found.faults.append(str(error))
    found.faults += storm.book.faults
    found.figures = _figures(storm)
    return found


def alone(folder: Path, choice: random.Random) -> Storm:
    """One process with all services, on SQLite."""
    return Storm(folder, lambda env: embedded(folder, **env), None, choice)


def among_others(folder: Path, choice: random.Random, broker_url: str, database_url: str) -> Storm:
    """A worklist in a process of its own, on PostgreSQL and RabbitMQ, with the services that it needs here."""

    def made(env: Mapping[str, str]) -> System:
        whole = cluster(folder, broker_url, database_url, (folder / "objects").as_uri(), **env)
        return System("cluster", {name: whole.processes[name] for name in ("network", "audit", "worklist")})

    return Storm(folder, made, database_url, choice)


def _figures(storm: Storm) -> dict[str, int]:
    said = list(storm.book.messages.values())
    steps = list(storm.book.performed.values())
    looked: Looked = storm.judge.looked
    return {
        "messages answered AA": sum(each.answers > 0 and each.want == "AA" for each in said),
        "messages answered AE": sum(each.answers > 0 and each.want == "AE" for each in said),
        "messages sent again": sum(each.tries > 1 for each in said),
        "messages answered twice or more, alike": sum(each.answers > 1 for each in said),
        "messages kept, and killed before the answer": looked.unheard,
        "messages never answered that are kept": sum(not each.answers and each.kept for each in said),
        "messages never answered that are not": sum(not each.answers and not each.kept for each in said),
        "messages above 1 MB": sum(len(each.raw) > 1_000_000 for each in said),
        "messages put off (AR)": sum(each.put_off for each in storm.interfaces),
        "orders": len(storm.book.orders),
        "performed steps": len(steps),
        "MPPS requests answered": sum(request.answered for each in steps for request in each.requests),
        "MPPS requests sent again": sum(request.sent > 1 for each in steps for request in each.requests),
        "MPPS requests put off (0110)": sum(each.put_off for each in storm.scanners),
        "compared: messages": looked.messages,
        "compared: orders": looked.orders,
        "compared: items": looked.items,
        "compared: performed steps": looked.steps,
        "compared: worklist answers": looked.answers,
        "compared: events": looked.events,
    }


@contextmanager
def on(database: Literal["sqlite", "postgresql"], folder: Path, choice: random.Random) -> Iterator[Storm]:
    """Make a storm on one kind of database, PostgreSQL and RabbitMQ in servers of its own."""
    if database == "sqlite":
        yield alone(folder, choice)
        return
    folder.chmod(0o755)  # they run as other users
    postgresql, rabbitmq = PostgreSQL(folder / "postgresql"), RabbitMQ(folder / "rabbitmq")
    with ExitStack() as stack:
        stack.callback(rabbitmq.close)
        rabbitmq.start()
        stack.callback(postgresql.kill)
        postgresql.start()
        yield among_others(folder, choice, rabbitmq.vhost(), postgresql.database())


def main() -> int:
    """Run it; gives the exit status."""
    parser = argparse.ArgumentParser(description="The worklist killed under load.")
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--database", choices=("sqlite", "postgresql"), default="sqlite")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(2**32))
    asked = parser.parse_args()
    _CONSOLE.print(f"seed {asked.seed}")
    folder = Path(tempfile.mkdtemp(prefix="kivuko-soak-"))
    began = time.monotonic()
    with (
        Progress(console=_CONSOLE, transient=True) as progress,
        on(asked.database, folder, random.Random(asked.seed)) as storm,
    ):
        task = progress.add_task("kills of the worklist", total=asked.kills)
        found = trial(storm, asked.kills, lambda: progress.advance(task))
    table = Table("", asked.database, title=f"{asked.kills} kills in {time.monotonic() - began:.0f} s")
    for name, count in {**{f"killed {when}": count for when, count in found.killed.items()}, **found.figures}.items():
        table.add_row(name, f"{count:,}")
    table.add_row("faults", f"{len(found.faults):,}")
    _CONSOLE.print(table)
    for each in found.faults[:_SHOWN]:
        _CONSOLE.print(f"  {each}", highlight=False)
    if found.faults:
        _CONSOLE.print(f"its files are in {folder}")
        return 1
    shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
