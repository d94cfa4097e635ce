"""Settings of egress."""

from datetime import time
from pathlib import Path
from typing import Annotated

from pydantic import BeforeValidator, Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class EgressSettings(BaseSettings):
    """What egress is told from outside. Times are seconds."""

    model_config = SettingsConfigDict(env_prefix="KIVUKO_EGRESS_", frozen=True, extra="ignore")

    connect_timeout: float = Field(10, gt=0, description="Longest wait for a TCP connection.")
    acse_timeout: float = Field(30, gt=0, description="Longest wait for the answer to an association request.")
    response_timeout: float = Field(
        120, gt=0, description="Longest wait for a C-STORE response after the last byte has left."
    )
    network_timeout: float = Field(60, gt=0, description="Longest time in which a receiver may take no byte.")
    associations: int = Field(64, ge=1, description="Associations at a time, of this process to all destinations.")
    hold: int = Field(128, ge=2, description="Most instances that this process has in hand for a destination.")
    linger: float = Field(1, ge=0, description="How long an association is kept when nothing is to be sent.")
    secrets: Path | None = Field(
        None,
        description="Folder of secrets that the definition names: NAME/tls.crt, NAME/tls.key, NAME/ca.crt; "
        "NAME/key of a project.",
    )
    verify_after: float = Field(
        3600, ge=0, description="Age from which an instance's hash is computed again before it is sent; 0: always."
    )
    record_items: int = Field(200, ge=1, description="Most answers that are recorded at once.")
    lease: float = Field(30, gt=0, description="How long a replica that says nothing keeps what it has in hand.")
    poll: float = Field(1, gt=0, description="How often to look for work that another replica recorded.")
    backoff_first: float = Field(2, gt=0, description="Wait after the first failure.")
    backoff_cap: float = Field(900, gt=0, description="Longest wait between two attempts.")
    refusals: int = Field(3, ge=1, description="Refusals of one instance after which people must look at it.")
    commit_wait: float = Field(
        10, ge=0, description="How long a report of storage commitment is waited for on the association of the request."
    )
    confirm_again: float = Field(
        3600, gt=0, description="Time without a report after which a destination is asked again; then twice as long."
    )
    confirm_cap: float = Field(86_400, gt=0, description="Longest time until a destination is asked again.")
    misses: int = Field(
        3, ge=1, description="How often a destination may not have an instance that it said success for; then people."
    )
    compare_at: Annotated[time | None, BeforeValidator(lambda given: None if given == "" else given)] = Field(
        time(2, 30),
        description="Time of day, in the network's time zone, at which destinations are asked what they have of what "
        "was sent to them; none: only when a person asks.",
    )
    compare_days: float = Field(1, gt=0, description="How many days back is compared, at least.")
    compare_most: int = Field(10_000, ge=1, description="Most studies of a destination that are compared at a time.")
    give_up: float = Field(
        604800, gt=0, description="How long a delivery is tried before people must look; a destination may say its own."
    )
    failover_after: float = Field(
        900, gt=0, description="How long a destination takes nothing before what waits for it goes to its alternate."
    )
    transforms: int = Field(2, ge=1, le=64, description="Processes at a time that transform instances.")
    transform_memory: int = Field(
        2_000_000_000, ge=300_000_000, description="Bytes of memory that each of them may have."
    )
    transform_seconds: float = Field(
        300, gt=0, description="How long the transform of one instance may take; then its process is replaced."
    )
    public_url: str | None = Field(
        None,
        pattern=r"^https://[^\s/?#]+(/[^\s?#]*)?$",
        description="Address under which partners reach us, https://...",
    )
    public_objects_url: str | None = Field(
        None,
        pattern=r"^https://[^\s/?#@]+/?$",
        description="Address under which partners reach the object store (S3), https://HOST[:PORT]: an instance is "
        "fetched there by a link that holds for 5 minutes. Unset: everything goes through us.",
    )
    receipt_key: Path | None = Field(
        None, description="File of the private key that signs receipts, Ed25519 in PEM; see docs/receipts.md."
    )
