"""`kivuko run SERVICE` while broker and database are away: it comes up, says so, works on, and recovers by itself."""

import json
import os
import secrets
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from pydicom.data import get_testdata_file

from contracts.definition import Definition, Snapshot
from tests.integration.cli.conftest import definition
from tests.support.dcmtk import storescu
from tests.support.kivuko import KIVUKO, Process
from tests.support.postgresql import PostgreSQL
from tests.support.process import wait_until
from tests.support.rabbitmq import RabbitMQ

pytestmark = pytest.mark.integration


@pytest.fixture
def away_broker(servers_folder: Path) -> Iterator[RabbitMQ]:
    """A RabbitMQ of its own, not started yet."""
    server = RabbitMQ(servers_folder / "rabbitmq-away")
    yield server
    server.close()


@pytest.fixture
def away_database(servers_folder: Path, tmp_path: Path) -> Iterator[PostgreSQL]:
    """A PostgreSQL of its own, with tables, and stopped."""
    server = PostgreSQL(servers_folder / "postgresql-away")
    server.start()
    env = {**os.environ, "KIVUKO_DATABASE_URL": server.url, "KIVUKO_HOME": str(tmp_path / "migrate")}
    subprocess.run([KIVUKO, "migrate"], env=env, check=True, timeout=60)
    server.stop()
    yield server
    server.kill()


def failing(process: Process) -> set[str]:
    """Give the checks of readiness that fail."""
    answer = httpx.get(f"{process.http}/readyz", timeout=30)
    return set() if answer.is_success else {one["check"] for one in answer.json()["failing"]}


def test_services_come_up_without_their_servers_and_recover(
    away_broker: RabbitMQ, away_database: PostgreSQL, tmp_path: Path, closed_port: int
) -> None:
    env = {
        "KIVUKO_BROKER_URL": away_broker.url,
        "KIVUKO_DATABASE_URL": away_database.url,
        "KIVUKO_OBJECTS_URL": f"file://{tmp_path}/objects",
        "KIVUKO_SERVICE_TOKEN": secrets.token_hex(16),
        "KIVUKO_ACK": "spool",
    }
    network = Process(["run", "network"], tmp_path / "network", env)
    ingest = Process(["run", "ingest"], tmp_path / "ingest", env)
    kept = Snapshot(
        version=1,
        document_hash="0" * 64,
        definition=Definition.model_validate(json.loads(definition(closed_port))),
    )
    (ingest.home / "network-snapshot.json").write_text(kept.model_dump_json(by_alias=True))
    path = Path(str(get_testdata_file("CT_small.dcm")))
    try:
        network.start()
        ingest = Process(["run", "ingest"], ingest.home, {**env, "KIVUKO_NETWORK_URL": network.http})
        ingest.start()
        assert {"network.broker", "network.database"} <= failing(network)
        assert {"ingest.broker", "ingest.migrations"} <= failing(ingest)
        refused = network.cli("network", "history")
        assert refused.returncode == 3
        assert "/readyz says what is wrong" in refused.stderr
        # It is on the disk of ingest: that is all that ack=spool asks for.
        assert storescu(ingest.dicom_port, [path], calling="SCANNER").returncode == 0

        away_database.start()
        away_broker.start()
        wait_until(lambda: not failing(network) | failing(ingest), "the services to find their servers")
        (study,) = json.loads(ingest.cli("study", "list", "--json").stdout)["studies"]
        assert study["instance_count"] == 1
        assert network.stop() == 0

        # A broker that goes away later is seen, and does not keep the process from ending.
        away_broker.kill()
        wait_until(lambda: "ingest.broker" in failing(ingest), "the broker to be missed")
        assert ingest.stop() == 0
    finally:
        network.kill()
        ingest.kill()
