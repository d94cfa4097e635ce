"""A whole Kivuko in each profile, with receivers that nobody here wrote."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.dcmtk import StoreScp
from tests.support.kivuko import System, cluster, embedded
from tests.support.orthanc import Orthanc
from tests.support.otlp import Sink, otlp_sink
from tests.support.postgresql import PostgreSQL
from tests.support.rabbitmq import RabbitMQ
from tests.support.seaweedfs import SeaweedFS

PROFILES = ("embedded", "cluster")


@pytest.fixture(scope="module", params=PROFILES)
def profile(request: pytest.FixtureRequest) -> str:
    """Each profile in turn."""
    return str(request.param)


@pytest.fixture(scope="module")
def sink(profile: str) -> Iterator[Sink]:  # noqa: ARG001 - one for each
    """Take the traces of the Kivuko under test."""
    with otlp_sink() as found:
        yield found


@pytest.fixture(scope="module")
def system(
    request: pytest.FixtureRequest, profile: str, sink: Sink, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[System]:
    """A Kivuko of a profile that looks for copies to remove all the time; killed at the end of the module."""
    env = {"OTEL_EXPORTER_OTLP_ENDPOINT": sink.url, "KIVUKO_INGEST_RETENTION_SECONDS": "0.2"}
    made = make_system(request, profile, tmp_path_factory.mktemp(profile), env)
    try:
        made.start()
        yield made
    finally:
        made.kill()


def make_system(request: pytest.FixtureRequest, profile: str, folder: Path, env: dict[str, str]) -> System:
    """Make a Kivuko of a profile, not started yet; the servers are started only for the cluster."""
    if profile == "embedded":
        return embedded(folder, **env)
    rabbitmq: RabbitMQ = request.getfixturevalue("rabbitmq")
    postgresql: PostgreSQL = request.getfixturevalue("postgresql")
    s3: SeaweedFS = request.getfixturevalue("s3")
    return cluster(folder, rabbitmq.vhost(), postgresql.database(), s3.bucket(), **env)


def definition(archive: StoreScp, reader: Orthanc | None = None) -> str:
    """Write a network of one site: any caller STORESCU of loopback, an archive, perhaps a reader."""
    nodes: dict[str, object] = {
        "STORESCU": {"site": "luba", "host": "127.0.0.1", "may": ["store"]},
        "ARCHIVE": {"site": "luba", "host": "127.0.0.1", "aet": archive.aet, "port": archive.port},
    }
    destinations: dict[str, object] = {"archive": {"node": "ARCHIVE"}}
    rules: list[object] = [{"name": "everything to the archive", "trigger": "instance", "deliver": "archive"}]
    if reader is not None:
        nodes["READER"] = {"site": "luba", "host": "127.0.0.1", "aet": reader.aet, "port": reader.dicom_port}
        destinations["reader"] = {"node": "READER"}
        rules.append({"name": "complete studies to the reader", "trigger": "study", "deliver": "reader"})
    document = {
        "kivuko": 1,
        "name": "Test",
        "sites": {"luba": {"name": "Luba"}},
        "nodes": nodes,
        "destinations": destinations,
        "rules": rules,
    }
    return json.dumps(document)  # JSON is YAML
