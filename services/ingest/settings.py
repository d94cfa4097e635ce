"""Settings of ingest alone."""

import os
from typing import Annotated

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class IngestSettings(BaseSettings):
    """What ingest is told from outside, besides `libs.settings.Settings`."""

    model_config = SettingsConfigDict(env_prefix="KIVUKO_INGEST_", frozen=True, extra="ignore")

    quiet_seconds: float = Field(30, gt=0, description="Time without arrivals after which a study is complete.")
    batch_size: int = Field(200, ge=1, le=1000, description="Instances of a study that are indexed together at most.")
    linger_seconds: float = Field(0.05, ge=0, description="How long an instance waits for the next one of its study.")
    longest_linger_seconds: float = Field(
        1.0, ge=0, description="Longest time that an instance waits for its batch to fill while many are coming."
    )
    min_free_bytes: int = Field(256 << 20, ge=0, description="Free space below which nothing more is taken.")
    low_share: float = Field(0.1, ge=0, lt=1, description="Share of a disk that is free when it is said to be low.")
    low_hours: float = Field(24, ge=0, description="A disk that will be full sooner, as it fills now, is low too.")
    receivers: int = Field(
        default_factory=lambda: max(1, min(4, (os.cpu_count() or 1) - 1)),
        ge=1,
        le=64,
        description="Processes that receive.",
    )
    receiver_timeout: float = Field(
        30, gt=0, description="Seconds without an answer after which such a process is killed and another started."
    )
    associations: int = Field(100, ge=1, description="Associations at a time.")
    waiting: int = Field(256, ge=1, description="Connections at a time that nobody has been admitted on yet.")
    waiting_address: int = Field(64, ge=1, description="Of these from one address; when more come, the oldest goes.")
    request_timeout: float = Field(30, gt=0, description="Seconds in which a caller must have said what it wants.")
    backlog: int = Field(
        20_000, ge=1, description="Entries that wait to be indexed, beyond which each answer is held back a little."
    )
    max_pdu: Annotated[int, Field(ge=4096)] = Field(1 << 17, description="Longest P-DATA-TF PDU that is accepted.")
    network_timeout: float = Field(60, gt=0, description="Seconds without a message before an association is aborted.")
    retention_seconds: float = Field(60, gt=0, description="How often copies are looked for whose keep time is over.")
    store_timeout: float = Field(
        30, gt=0, description="Seconds that an object store may take before A700 (ack=object-store)."
    )
