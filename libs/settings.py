"""Settings that every process reads from its environment."""

import socket
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError
from pydantic_settings import BaseSettings, SettingsConfigDict

Port = Annotated[int, Field(ge=0, le=65535)]


class Settings(BaseSettings):
    """What a process is told from outside. A port of 0 picks a free one. Unset addresses are derived from `home`."""

    model_config = SettingsConfigDict(env_prefix="KIVUKO_", frozen=True, extra="ignore")

    home: Path = Field(Path("kivuko-data"), description="Folder of everything that is kept.")
    bind: str = Field("127.0.0.1", description="Address that all ports listen on.")
    dicom_port: Port = Field(11112, description="C-ECHO and C-STORE.")
    tls_certificate: Path | None = Field(None, description="Our certificate and its chain, PEM.")
    tls_key: Path | None = Field(None, description="Its private key, PEM, not encrypted.")
    tls_ca: Path | None = Field(None, description="Authorities whose certificates we accept, PEM.")
    tls_crl: Path | None = Field(None, description="Certificates that they have revoked, PEM; needed anew in time.")
    tls_profile: Literal["bcp195", "bcp195-nd", "bcp195-extended"] = Field(
        "bcp195", description="Secure transport profile of PS3.15 annex B: see docs/dicom-tls.md."
    )
    # After the files: it is checked against them.
    dicom_tls_port: Port | None = Field(None, description="C-ECHO and C-STORE with TLS, such as 2762; off if unset.")
    hl7_tls_port: Port | None = Field(None, description="HL7 v2 over MLLP with TLS; off if unset.")
    worklist_tls_port: Port | None = Field(None, description="Modality worklist and MPPS with TLS; off if unset.")
    worklist_port: Port = Field(11113, description="Modality worklist and MPPS.")
    hl7_port: Port = Field(2575, description="HL7 v2 over MLLP.")
    http_port: Port = Field(8080, description="HTTP.")
    broker_url: SecretStr | None = Field(None, description="amqp://user:password@host:port/vhost or sqlite:///FILE.")
    database_url: SecretStr | None = Field(None, description="postgresql://... or sqlite:///FOLDER.")
    objects_url: SecretStr | None = Field(None, description="s3://key:secret@host:port/bucket or file:///FOLDER.")
    ack: Literal["spool", "object-store"] = Field("spool", description="What must hold an object before 0x0000.")
    region: str = Field("local", pattern=r"^[a-z0-9][a-z0-9-]*$", description="Name of this deployment in events.")
    instance: str = Field(
        default_factory=lambda: socket.gethostname().split(".")[0].lower() or "kivuko",
        pattern=r"^[A-Za-z0-9_-]+$",
        description="Name of this replica, unique among the replicas of a service.",
    )
    network_url: str | None = Field(None, description="Address of the service `network`, for the other services.")
    service_token: SecretStr | None = Field(None, description="Shared by the services to ask the service `network`.")
    log_level: Literal["debug", "info", "warning", "error"] = Field("info", description="Least severe line logged.")

    @field_validator("dicom_tls_port", "hl7_tls_port", "worklist_tls_port")
    @classmethod
    def _has_files(cls, port: int | None, info: ValidationInfo) -> int | None:
        missing = [name for name in ("tls_certificate", "tls_key", "tls_ca") if info.data.get(name) is None]
        if port is not None and missing:
            names = ", ".join(f"KIVUKO_{name.upper()}" for name in missing)
            raise PydanticCustomError("tls_files", "this port needs the files named by {names}", {"names": names})
        return port

    @property
    def broker(self) -> str:
        """Address of the broker, with its password."""
        return self._or(self.broker_url, f"sqlite:///{(self.home / 'bus.db').absolute()}")

    @property
    def database(self) -> str:
        """Address of the database, with its password."""
        return self._or(self.database_url, f"sqlite:///{(self.home / 'db').absolute()}")

    @property
    def objects(self) -> str:
        """Address of the object store, with its secret."""
        return self._or(self.objects_url, f"file://{(self.home / 'objects').absolute()}")

    @property
    def socket_path(self) -> Path:
        """Unix socket of the local command line."""
        return self.home / "kivuko.sock"

    @staticmethod
    def _or(given: SecretStr | None, derived: str) -> str:
        return derived if given is None else given.get_secret_value()
