"""Real servers for tests. A test that asks for one that is not installed fails with what to install."""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings

from tests.support.dcmtk import StoreScp
from tests.support.orthanc import Orthanc
from tests.support.postgresql import PostgreSQL
from tests.support.rabbitmq import RabbitMQ
from tests.support.seaweedfs import SeaweedFS

# No test asserts a time: an example, or the making of one, may take as long as a busy machine makes it take.
settings.register_profile(
    "kivuko",
    max_examples=int(os.environ.get("KIVUKO_TEST_EXAMPLES", "50")),
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("kivuko")

#: storescp(aet="STORESCP", flags=(), port=None) starts one more.
StoreScpFactory = Callable[..., StoreScp]


@pytest.fixture(scope="session")
def servers_folder(request: pytest.FixtureRequest) -> Iterator[Path]:
    """Folder of the servers' files and logs; kept when a test failed.

    Not under pytest's own temporary folder: that is closed to other users, and PostgreSQL runs as one.
    """
    folder = Path(tempfile.mkdtemp(prefix="kivuko-test-"))
    folder.chmod(0o755)
    yield folder
    if request.session.testsfailed == 0:
        shutil.rmtree(folder)


@pytest.fixture(scope="session")
def rabbitmq(servers_folder: Path) -> Iterator[RabbitMQ]:
    """RabbitMQ; `.vhost()` gives the address of a fresh vhost."""
    server = RabbitMQ(servers_folder / "rabbitmq")
    with ExitStack() as stack:
        stack.callback(server.close)
        server.start()
        yield server


@pytest.fixture(scope="session")
def postgresql(servers_folder: Path) -> Iterator[PostgreSQL]:
    """PostgreSQL; `.database()` gives the address of a fresh database."""
    server = PostgreSQL(servers_folder / "postgresql")
    with ExitStack() as stack:
        stack.callback(server.kill)
        server.start()
        yield server


@pytest.fixture(scope="session")
def s3(servers_folder: Path) -> Iterator[SeaweedFS]:
    """S3 service; `.bucket()` gives the address of a fresh bucket."""
    server = SeaweedFS(servers_folder / "seaweedfs")
    with ExitStack() as stack:
        stack.callback(server.stop)
        server.start()
        yield server


@pytest.fixture
def storescp(tmp_path: Path) -> Iterator[StoreScpFactory]:
    """Factory of dcmtk's storescp."""
    with ExitStack() as stack:

        def start(aet: str = "STORESCP", flags: Sequence[str] = (), port: int | None = None) -> StoreScp:
            server = StoreScp(Path(tempfile.mkdtemp(prefix="storescp-", dir=tmp_path)), aet=aet, flags=flags, port=port)
            stack.callback(server.stop)
            server.start()
            return server

        yield start


@pytest.fixture
def orthanc(tmp_path: Path) -> Iterator[Orthanc]:
    """Orthanc with an empty store."""
    server = Orthanc(tmp_path / "orthanc")
    with ExitStack() as stack:
        stack.callback(server.close)
        server.start()
        yield server
