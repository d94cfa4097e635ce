"""`kivuko doctor`: each thing that is wrong is found, and it says how to mend it."""

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.cli.conftest import Cli, command
from tests.support.authority import Authority, Issued
from tests.support.postgresql import PostgreSQL
from tests.support.rabbitmq import RabbitMQ

pytestmark = pytest.mark.integration

Findings = dict[str, dict[str, str]]


def doctor(home: Path, **env: str) -> tuple[int, Findings]:
    """Run it; give the exit code, and the findings by name."""
    done = command(
        "doctor", "--json", **({"KIVUKO_DICOM_PORT": "0", "KIVUKO_HTTP_PORT": "0", "KIVUKO_HOME": str(home)} | env)
    )
    told = json.loads(done.stdout)
    findings = {finding["check"]: finding for finding in told["findings"]}
    assert told["ok"] is (done.returncode == 0)
    assert all(one["mend"] for one in findings.values() if one["result"] == "failed")
    return done.returncode, findings


@pytest.fixture
def full_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of 64 KiB."""
    folder = tmp_path / "small"
    folder.mkdir()
    subprocess.run(["/bin/mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["/bin/umount", "-l", str(folder)], check=True)


def test_all_in_order_and_nothing_made(tmp_path: Path) -> None:
    code, findings = doctor(tmp_path / "home")
    assert code == 0
    assert {"python", "home", "disk", "clock", "database", "broker", "object store"} <= findings.keys()
    assert not (tmp_path / "home").exists()


def test_a_kivuko_that_runs_and_is_ready(cli: Cli) -> None:
    done = cli("doctor")
    assert done.returncode == 0
    assert "Kivuko runs here and is ready" in done.stdout
    assert "Everything that was checked is in order." in done.stdout


def test_a_port_that_is_taken(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        code, findings = doctor(tmp_path, KIVUKO_DICOM_PORT=str(port))
    assert code == 1
    assert findings[f"port {port}"]["result"] == "failed"
    assert "KIVUKO_DICOM_PORT" in findings[f"port {port}"]["mend"]


def test_certificates_that_do_not_fit_or_end(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "ca")
    good, ending, ended = (authority.issue("kivuko", days=days) for days in (300, 5, -1))

    def told(issued: Issued, key: Path | None = None) -> tuple[int, Findings]:
        return doctor(
            tmp_path / "home",
            KIVUKO_DICOM_TLS_PORT="0",
            KIVUKO_TLS_CERTIFICATE=str(issued.certificate),
            KIVUKO_TLS_KEY=str(key or issued.key),
            KIVUKO_TLS_CA=str(authority.certificate),
        )

    code, findings = told(good)
    assert code == 0
    assert (findings["certificate"]["result"], findings["authority"]["result"]) == ("ok", "ok")
    assert "private key" not in findings
    assert told(ending)[1]["certificate"]["result"] == "warning"
    code, findings = told(ended)
    assert code == 1
    assert "ended" in findings["certificate"]["detail"]
    code, findings = told(good, ended.key)
    assert code == 1
    assert "belong together" in findings["certificate"]["detail"]
    good.key.chmod(0o644)
    assert told(good)[1]["private key"]["result"] == "warning"


def test_a_full_disk(full_disk: Path) -> None:
    code, findings = doctor(full_disk)
    assert code == 1
    assert findings["disk"]["result"] == "failed"
    assert "Make room" in findings["disk"]["mend"]


def test_a_clock_that_went_back(tmp_path: Path) -> None:
    written = tmp_path / "bus.db.lock"
    written.touch()
    later = written.stat().st_mtime + 86_400
    os.utime(written, (later, later))
    code, findings = doctor(tmp_path)
    assert code == 1
    assert "the newest file in KIVUKO_HOME" in findings["clock"]["detail"]
    assert "NTP" in findings["clock"]["mend"]


def test_a_damaged_database(tmp_path: Path) -> None:
    (tmp_path / "db").mkdir()
    (tmp_path / "db" / "ingest.db").write_bytes(b"no database" * 1000)
    code, findings = doctor(tmp_path)
    assert code == 1
    assert "ingest.db" in findings["database"]["detail"]
    assert "backup" in findings["database"]["mend"]


def test_servers_that_are_away(tmp_path: Path, closed_port: int) -> None:
    code, findings = doctor(
        tmp_path,
        KIVUKO_BROKER_URL=f"amqp://u:secret@127.0.0.1:{closed_port}/",
        KIVUKO_DATABASE_URL=f"postgresql://u:secret@127.0.0.1:{closed_port}/x",
        KIVUKO_OBJECTS_URL=f"s3://key:secret@127.0.0.1:{closed_port}/bucket",
    )
    assert code == 1
    for check, variable in (
        ("broker", "KIVUKO_BROKER_URL"),
        ("database", "KIVUKO_DATABASE_URL"),
        ("object store", "KIVUKO_OBJECTS_URL"),
    ):
        assert findings[check]["result"] == "failed"
        assert variable in findings[check]["mend"]
    assert "secret" not in json.dumps(findings)


def test_servers_that_answer_and_tables_that_are_not_made(
    tmp_path: Path, rabbitmq: RabbitMQ, postgresql: PostgreSQL
) -> None:
    servers = {"KIVUKO_BROKER_URL": rabbitmq.vhost(), "KIVUKO_DATABASE_URL": postgresql.database()}
    code, findings = doctor(tmp_path, **servers)
    assert code == 1
    assert findings["broker"]["result"] == "ok"
    assert "kivuko migrate" in findings["database"]["mend"]
    done = command("migrate", "--json", **servers, KIVUKO_HOME=str(tmp_path))
    assert set(json.loads(done.stdout)["migrated"]) >= {"ingest", "rules", "egress", "audit", "network"}
    assert doctor(tmp_path, **servers)[0] == 0
