"""`kivuko up`: how it starts, why it does not, and how it ends."""

import json
import os
import signal
import socket
import subprocess
from pathlib import Path

import pytest
from pynetdicom import AE
from pynetdicom.association import Association
from pynetdicom.sop_class import CTImageStorage  # type: ignore[attr-defined]  # made at run time

from tests.integration.cli.conftest import command, definition
from tests.support.kivuko import KIVUKO, Process

pytestmark = pytest.mark.integration


def up(home: Path, *arguments: str, **env: str) -> subprocess.CompletedProcess[str]:
    """Run a `kivuko up` that is expected to end by itself."""
    ports = {"KIVUKO_DICOM_PORT": "0", "KIVUKO_HTTP_PORT": "0", "KIVUKO_LOG_LEVEL": "error"}
    return subprocess.run(
        [KIVUKO, "up", *arguments], env={**os.environ, **ports, "KIVUKO_HOME": str(home), **env},
        capture_output=True, text=True, check=False, timeout=60,
    )  # fmt: skip


def test_a_second_process_on_one_home_ends_with_one_error(running: Process) -> None:
    done = up(running.home)
    assert done.returncode == 1
    assert f"in use by process {running.pid}" in done.stderr
    assert done.stderr.count("\n") == 1
    assert not done.stdout


@pytest.mark.parametrize("name", ["DICOM", "HTTP"])
def test_a_port_that_is_taken(tmp_path: Path, name: str) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        done = up(tmp_path, **{f"KIVUKO_{name}_PORT": port})
    assert done.returncode == 1
    assert f"{name} cannot listen on 127.0.0.1 port {port}: another program has it." in done.stderr
    assert f"KIVUKO_{name}_PORT" in done.stderr


@pytest.mark.parametrize(
    ("env", "said"),
    [
        ({"KIVUKO_INGEST_QUIET_SECONDS": "-1"}, "KIVUKO_INGEST_QUIET_SECONDS"),
        ({"KIVUKO_DATABASE_URL": "u:pa55word@h"}, "KIVUKO_DATABASE_URL"),
    ],
)
def test_an_environment_that_does_not_fit(tmp_path: Path, env: dict[str, str], said: str) -> None:
    done = up(tmp_path, **env)
    assert done.returncode == 2
    assert said in done.stderr
    assert "pa55word" not in done.stderr
    assert not done.stdout


def test_a_definition_that_does_not_fit_starts_nothing(tmp_path: Path) -> None:
    config = tmp_path / "network.yaml"
    config.write_text(definition(1).replace('"node": "ARCHIVE"', '"node": "ARCHIV"'))
    done = up(tmp_path / "home", "--config", str(config), "--json")
    assert done.returncode == 1
    assert not done.stdout
    (problem,) = json.loads(done.stderr)["problems"]
    assert problem["file"] == str(config)
    assert problem["line"] > 1
    assert not (tmp_path / "home" / "kivuko.sock").exists()


@pytest.mark.parametrize(("options", "why"), [("size=32k", "No space left on device"), ("ro", "Read-only file system")])
def test_a_home_that_takes_nothing(tmp_path: Path, options: str, why: str) -> None:
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", options, "tmpfs", str(tmp_path)], check=True)
    try:
        done = command("up", KIVUKO_HOME=str(tmp_path))
    finally:
        subprocess.run(["/bin/umount", "-l", str(tmp_path)], check=True)
    assert done.returncode == 1
    assert f"The folder {tmp_path} cannot be used ({why}); nothing was started." in done.stderr
    assert "KIVUKO_HOME" in done.stderr


def test_a_disk_that_fills_up_while_it_starts_is_told_too(tmp_path: Path) -> None:
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=200k", "tmpfs", str(tmp_path)], check=True)
    try:
        done = up(tmp_path)
    finally:
        subprocess.run(["/bin/umount", "-l", str(tmp_path)], check=True)
    assert done.returncode == 1
    assert done.stderr.startswith("error: ")
    assert "kivuko doctor" in done.stderr or "KIVUKO_HOME" in done.stderr


def _idle_scanner(port: int) -> Association:
    """Hold an association open, as scanners do for minutes."""
    entity = AE("SCANNER")
    entity.add_requested_context(CTImageStorage)
    association = entity.associate("127.0.0.1", port, ae_title="KIVUKO")
    assert association.is_established
    return association


def test_it_ends_in_order_when_asked_and_starts_again(tmp_path: Path) -> None:
    config = tmp_path / "network.yaml"
    config.write_text(definition(1))
    process = Process(["up", "--config", str(config)], tmp_path / "home", {})
    for sign in (signal.SIGTERM, signal.SIGINT):
        process.start()
        association = _idle_scanner(process.dicom_port)
        try:
            assert process.stop(sign) == 0
        finally:
            association.kill()
            process.kill()
        assert not (tmp_path / "home" / "kivuko.sock").exists()
    said = [json.loads(line) for line in process.log.read_text().splitlines() if line.startswith("{")]
    assert [line["event"] for line in said if line["level"] in ("error", "critical")] == []


def test_it_ends_in_order_when_asked_before_it_is_ready(tmp_path: Path) -> None:
    environment = {**os.environ, "KIVUKO_HOME": str(tmp_path), "KIVUKO_DICOM_PORT": "0", "KIVUKO_HTTP_PORT": "0"}
    # Without a buffer: communicate() would pass over what readline() left in it.
    with subprocess.Popen(
        [KIVUKO, "up"], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0
    ) as process:
        assert process.stderr is not None
        assert b"revision applied" in process.stderr.readline()
        process.terminate()
        out, err = process.communicate(timeout=60)
    assert process.returncode == 0
    assert b"ready" not in out
    assert b'"level": "error"' not in err
