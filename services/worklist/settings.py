"""Settings of worklist alone."""

from pathlib import Path
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class WorklistSettings(BaseSettings):
    """What worklist is told from outside, besides `libs.settings.Settings`."""

    model_config = SettingsConfigDict(env_prefix="KIVUKO_WORKLIST_", frozen=True, extra="ignore")

    associations: int = Field(100, ge=1, description="Associations at a time.")
    waiting: int = Field(256, ge=1, description="Connections at a time that nobody has been admitted on yet.")
    waiting_address: int = Field(64, ge=1, description="Of these from one address; when more come, the oldest goes.")
    request_timeout: float = Field(30, gt=0, description="Seconds in which a caller must have said what it wants.")
    network_timeout: float = Field(60, gt=0, description="Seconds without a message before an association is aborted.")
    max_pdu: Annotated[int, Field(ge=4096)] = Field(1 << 16, description="Longest P-DATA-TF PDU that is accepted.")
    look_seconds: float = Field(0.5, gt=0, description="How often changes by other replicas are looked for.")
    cache_bytes: int = Field(32 << 20, ge=0, description="Memory for answers that are kept as they were sent.")
    queries_kept: int = Field(1000, ge=1, description="Recorded queries that are kept of each node, the newest.")
    queries_days: float = Field(30, gt=0, description="How long they are kept at most.")
    messages_days: float = Field(
        90, gt=0, description="How long what was received is kept as it came; what became of it stays."
    )
    forward_first: float = Field(2, gt=0, description="Wait after the first failure to pass a step on.")
    forward_cap: float = Field(900, gt=0, description="Longest wait between two attempts.")
    secrets: Path | None = Field(
        None, description="Folder of secrets that the definition names: NAME/tls.crt, NAME/tls.key, NAME/ca.crt."
    )
