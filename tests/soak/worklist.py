"""`python -m tests.soak.worklist [--kills N] [--database postgresql]`: Kivuko is killed at random under orders and steps.

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
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from tests.soak.worklist_book import Book
from tests.soak.worklist_judge import SOURCE, STATION, Judge, Looked
from tests.soak.worklist_senders import Gate, Interface, Scanner
from tests.support.authority import Authority
from tests.support.kivuko import Process, embedded
from tests.support.postgresql import PostgreSQL
from tests.support.process import wait_until

_CONSOLE = Console(stderr=True)
_SHOWN: Final = 20
_INTERFACES: Final = 8
_SCANNERS: Final = 3
#: A kill comes when so many more messages and requests are answered, at most.
_BETWEEN: Final = 120
_PATIENCE_S: Final = 120.0
#: A start takes about so long.
_START_S: Final = 4.0
_NODES: Final = {
    SOURCE: {"site": "malabo", "host": "127.0.0.1", "issuer": "HGM", "hl7": {}},
    STATION: {
        "site": "malabo",
        "host": "127.0.0.1",
        "modality": "CT",
        "may": ["worklist", "mpps"],
        "worklist": {"limit": 10_000},
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
    """One Kivuko, its senders, and who kills it."""

    def __init__(self, folder: Path, database_url: str | None, choice: random.Random) -> None:
        authority = Authority(folder / "authority")
        ours, theirs = authority.issue("kivuko"), authority.issue("ris")
        environment = {
            "KIVUKO_HL7_TLS_PORT": "0",
            "KIVUKO_TLS_CERTIFICATE": str(ours.certificate),
            "KIVUKO_TLS_KEY": str(ours.key),
            "KIVUKO_TLS_CA": str(authority.certificate),
        }
        if database_url is not None:
            environment["KIVUKO_DATABASE_URL"] = database_url
        self._system = embedded(folder, **environment)
        self._process: Process = self._system.of("worklist")
        self._choice = choice
        self._amid = threading.Event()
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
                lambda name=name: self._process.addresses[name],
                depth=(1, 1, 8, 3)[number % 4],
                large=0.02 if number < _INTERFACES // 2 else 0,
                tls=tls if name == "hl7-tls" else None,
                amid=self._amid,
            )
            for number, name in enumerate(("hl7", "hl7-tls", "hl7", "hl7-tls", "hl7", "hl7", "hl7-tls", "hl7"))
        ]
        self.scanners = [
            Scanner(self._gate, self.book, random.Random(choice.random()), self._worklist_port) for _ in range(_SCANNERS)
        ]
        self.killed: Counter[str] = Counter()

    def run(self, kills: int, told: Callable[[], None]) -> None:
        """Kill so many times, and judge each time."""
        senders = [*self.interfaces, *self.scanners]
        self._system.start()
        try:
            sites = {"malabo": {"name": "Malabo"}}
            document = {"kivuko": 1, "name": "soak", "timezone": "Africa/Malabo", "sites": sites, "nodes": _NODES}
            self._system.apply(json.dumps(document))
            for each in senders:
                each.start()
            self._gate.open()
            for _ in range(kills):
                self._more(self._choice.randint(1, _BETWEEN))
                self._kill()
                self.judge.after_a_kill([each.lost for each in self.interfaces], self._worklist_port())
                self._gate.open()
                told()
            self._more(_BETWEEN)
            for each in senders:
                each.end()
            for each in senders:
                each.join(_PATIENCE_S)
            self.judge.at_the_end(self._worklist_port())
        finally:
            self._process.kill()

    def _worklist_port(self) -> int:
        return int(self._process.addresses["worklist"].rpartition(":")[2])

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
        self._gate.close()
        when = "at work"
        if self._choice.random() < 0.3:
            self._amid.clear()
            # If none is on its way by then, it is killed at work.
            if self._amid.wait(2):
                when = "amid a large message"
        self._process.kill()
        self.killed[when] += 1
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


def trial(
    folder: Path, database_url: str | None, kills: int, choice: random.Random, told: Callable[[], None] = lambda: None
) -> Found:
    """Kill so many times, then see what became of everything."""
    storm = Storm(folder, database_url, choice)
    found = Found(killed=storm.killed)
    try:
        storm.run(kills, told)
    except (TimeoutError, RuntimeError) as error:
        found.faults.append(str(error))
    found.faults += storm.book.faults
    found.figures = _figures(storm)
    return found


def _figures(storm: Storm) -> dict[str, int]:
    said = list(storm.book.messages.values())
    steps = list(storm.book.performed.values())
    looked: Looked = storm.judge.looked
    return {
        "messages answered AA": sum(each.answers > 0 and each.want == "AA" for each in said),
        "messages answered AE": sum(each.answers > 0 and each.want == "AE" for each in said),
        "messages sent again": sum(each.tries > 1 for each in said),
        "messages answered twice or more, alike": sum(each.answers > 1 for each in said),
        "messages without an answer that are kept": sum(not each.answers and each.kept for each in said),
        "messages without an answer that are not": sum(not each.answers and not each.kept for each in said),
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


def on(
    database: Literal["sqlite", "postgresql"],
    folder: Path,
    kills: int,
    choice: random.Random,
    told: Callable[[], None] = lambda: None,
) -> Found:
    """Do the trial on one kind of database, PostgreSQL in a server of its own."""
    if database == "sqlite":
        return trial(folder, None, kills, choice, told)
    folder.chmod(0o755)  # it runs as another user
    server = PostgreSQL(folder / "postgresql")
    server.start()
    try:
        return trial(folder, server.database(), kills, choice, told)
    finally:
        server.kill()


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
    with Progress(console=_CONSOLE, transient=True) as progress:
        task = progress.add_task("kills of the worklist", total=asked.kills)
        choice = random.Random(asked.seed)
        found = on(asked.database, folder, asked.kills, choice, lambda: progress.advance(task))
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
