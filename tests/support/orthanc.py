"""A private Orthanc from Debian's package."""

import json
from pathlib import Path
from typing import Any

import httpx

from tests.support.port import free_port
from tests.support.process import Program, program


class Orthanc:
    """One server with an empty store: accepts every SOP class and transfer syntax from everyone."""

    def __init__(self, folder: Path, *, aet: str = "ORTHANC", settings: dict[str, Any] | None = None) -> None:
        folder.mkdir(parents=True)
        self.folder = folder
        self.aet = aet
        self.dicom_port, self.http_port = free_port(), free_port()
        self.http_url = f"http://127.0.0.1:{self.http_port}"
        configuration = {
            "Name": "test",
            "StorageDirectory": str(folder / "store"),
            "IndexDirectory": str(folder / "store"),
            "HttpPort": self.http_port,
            "RemoteAccessAllowed": False,  # binds HTTP to loopback; DICOM always binds every address
            "AuthenticationEnabled": False,
            "DicomServerEnabled": True,
            "DicomAet": aet,
            "DicomPort": self.dicom_port,
            "DicomCheckCalledAet": False,
            "DicomAlwaysAllowEcho": True,
            "DicomAlwaysAllowStore": True,
            "UnknownSopClassAccepted": True,
            "OverwriteInstances": True,
            "Plugins": [],
            **(settings or {}),
        }
        (folder / "orthanc.json").write_text(json.dumps(configuration))
        command = [program("Orthanc", "orthanc"), str(folder / "orthanc.json")]
        self._server = Program(command, folder, name="orthanc", env={"TCP_NODELAY": "1"})
        self._client = httpx.Client(base_url=self.http_url, timeout=30.0, trust_env=False)

    @property
    def pid(self) -> int:
        """Process id while it runs."""
        return self._server.pid

    def start(self) -> None:
        """Start it, or start it again with everything it had; return when it serves."""
        self._server.start(self._serves)

    def stop(self) -> None:
        """Stop it: killed, because its orderly stop takes 3 s."""
        self._server.kill()

    def close(self) -> None:
        """End it and forget its connections."""
        self._server.kill()
        self._client.close()

    def instances(self) -> list[str]:
        """List Orthanc's identifiers of the instances that it holds."""
        listed: list[str] = self._client.get("/instances").raise_for_status().json()
        return listed

    def file(self, instance: str) -> bytes:
        """Give the Part 10 file of an instance by Orthanc's identifier."""
        return self._client.get(f"/instances/{instance}/file").raise_for_status().content

    def _serves(self) -> bool:
        try:
            return self._client.get("/system").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False
