"""Kivuko itself as a program under test, in both profiles: real processes, killed as a power cut would."""

import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import httpx

from contracts.topics import SERVICES
from libs.web.server import socket_name
from tests.support.port import free_port
from tests.support.process import Program, wait_until

#: The command.
KIVUKO = str(Path(sys.executable).parent / "kivuko")
#: Studies are complete after this many seconds without an arrival: short, so that tests are.
QUIET_SECONDS = 2


class Process:
    """One `kivuko` process with a home of its own. Ports are kept across restarts."""

    def __init__(self, command: Sequence[str], home: Path, env: Mapping[str, str]) -> None:
        self.home = home
        home.mkdir(parents=True, exist_ok=True)
        environment = {
            "KIVUKO_HOME": str(home),
            # The next life listens where this one did, as senders expect.
            "KIVUKO_DICOM_PORT": str(free_port()),
            "KIVUKO_HTTP_PORT": str(free_port()),
            "KIVUKO_WORKLIST_PORT": "0",
            "KIVUKO_HL7_PORT": "0",
            "KIVUKO_INGEST_QUIET_SECONDS": str(QUIET_SECONDS),
            **env,
        }
        self._program = Program([KIVUKO, *command], home, name="kivuko", env=environment)
        self.addresses: dict[str, str] = {}
        self._starts = 0

    @property
    def log(self) -> Path:
        """Everything that it printed, over all its lives."""
        return self._program.log

    @property
    def pid(self) -> int:
        """Process id while it runs."""
        return self._program.pid

    @property
    def running(self) -> bool:
        """Whether it was started and has not ended."""
        return self._program.running

    @property
    def dicom_port(self) -> int:
        """Port of C-STORE."""
        return int(self.addresses["dicom"].rpartition(":")[2])

    @property
    def http(self) -> str:
        """Address of HTTP."""
        return self.addresses["http"]

    def start(self, timeout_s: float = 60.0) -> None:
        """Start it, and return when it has printed its `ready` line."""
        already = len(self._ready_lines())
        self._program.start(lambda: len(self._ready_lines()) > already, timeout_s)
        words = self._ready_lines()[-1].split()[1:]
        self.addresses = dict(word.split("=", 1) for word in words if "=" in word)

    def kill(self) -> None:
        """End it as a power cut would."""
        self._program.kill()

    def stop(self, sign: signal.Signals = signal.SIGTERM) -> int:
        """Ask it to end; gives its exit status."""
        return self._program.stop(sign) if self._program.running else 0

    def cli(self, *arguments: str, stdin: str | None = None) -> subprocess.CompletedProcess[str]:
        """Run a command of the command line against this process."""
        return subprocess.run(
            [KIVUKO, *arguments], env={**os.environ, "KIVUKO_HOME": str(self.home)}, input=stdin,
            capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip

    def get(self, path: str, **query: str | int) -> Any:
        """GET over the Unix socket, as the command line does, without starting one; gives the decoded JSON."""
        transport = httpx.HTTPTransport(uds=socket_name(self.home / "kivuko.sock"))
        with httpx.Client(base_url="http://kivuko", transport=transport, timeout=30) as client:
            return client.get(path, params=query).raise_for_status().json()

    def _ready_lines(self) -> list[str]:
        if not self.log.exists():
            return []
        return [line for line in self.log.read_text(errors="replace").splitlines() if line.startswith("ready")]


@dataclass(frozen=True)
class System:
    """A whole Kivuko: one process, or one a service."""

    profile: Literal["embedded", "cluster"]
    processes: Mapping[str, Process]

    def of(self, service: str) -> Process:
        """Give the process that runs a service."""
        return self.processes.get(service) or self.processes["all"]

    @property
    def dicom_port(self) -> int:
        """Port of C-STORE."""
        return self.of("ingest").dicom_port

    def start(self) -> None:
        """Start every process that does not run yet."""
        waiting = [process for process in self.processes.values() if not process.running]
        with ThreadPoolExecutor(len(waiting)) as together:
            for started in [together.submit(process.start) for process in waiting]:
                started.result()

    def kill(self) -> None:
        """End every process as a power cut would."""
        for process in self.processes.values():
            process.kill()

    def apply(self, definition: str) -> Any:
        """Put a network definition in force, and return when every service works by it."""
        answer = self.of("network").cli("apply", "-", "--json", stdin=definition)
        if answer.returncode != 0:
            raise RuntimeError(f"not applied:\n{answer.stdout}{answer.stderr}")
        applied = json.loads(answer.stdout)
        for service in ("ingest", "rules", "egress", "worklist"):
            if not {service, "all"} & self.processes.keys():
                continue
            kept = self.of(service).home / "network-snapshot.json"
            wait_until(lambda kept=kept: _version(kept) >= applied["version"], f"{service} to hear the definition")  # type: ignore[misc]
        return applied

    def timeline(self, uid: str) -> list[dict[str, Any]]:
        """Give the timeline of a study."""
        entries: list[dict[str, Any]] = self.of("audit").get(f"/v1/audit/studies/{uid}/timeline")["entries"]
        return entries

    def studies(self) -> list[dict[str, Any]]:
        """List the studies."""
        studies: list[dict[str, Any]] = self.of("ingest").get("/v1/ingest/studies", limit=500)["studies"]
        return studies


def _version(kept: Path) -> int:
    return int(json.loads(kept.read_text())["version"]) if kept.exists() else 0


def embedded(folder: Path, **env: str) -> System:
    """Make an embedded Kivuko: one process, everything in one folder."""
    return System("embedded", {"all": Process(["up"], folder / "kivuko", env)})


def cluster(folder: Path, broker_url: str, database_url: str, objects_url: str, **env: str) -> System:
    """Make a cluster Kivuko: one process a service, on RabbitMQ, PostgreSQL and S3."""
    common = {
        "KIVUKO_BROKER_URL": broker_url,
        "KIVUKO_DATABASE_URL": database_url,
        "KIVUKO_OBJECTS_URL": objects_url,
        "KIVUKO_SERVICE_TOKEN": secrets.token_hex(16),
        "KIVUKO_ACK": "object-store",
        **env,
    }
    migrated = subprocess.run(
        [KIVUKO, "migrate"],
        env={**os.environ, **common, "KIVUKO_HOME": str(folder / "migrate")},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if migrated.returncode != 0:
        raise RuntimeError(f"not migrated:\n{migrated.stdout}{migrated.stderr}")
    network = Process(["run", "network"], folder / "network", {**common, "KIVUKO_INSTANCE": "network-0"})
    network.start()
    common["KIVUKO_NETWORK_URL"] = network.http
    rest = {
        name: Process(["run", name], folder / name, {**common, "KIVUKO_INSTANCE": f"{name}-0"})
        for name in SERVICES
        if name != "network"
    }
    return System("cluster", {"network": network, **rest})
