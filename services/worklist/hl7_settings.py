"""Settings of the HL7 port."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class Hl7Settings(BaseSettings):
    """What the HL7 port is told from outside, besides `libs.settings.Settings`."""

    model_config = SettingsConfigDict(env_prefix="KIVUKO_HL7_", frozen=True, extra="ignore")

    max_bytes: int = Field(10_000_000, ge=1024, le=100_000_000, description="Longest message.")
    connections: int = Field(500, ge=1, description="Connections at a time.")
    connections_address: int = Field(64, ge=1, description="Of these from one address.")
    message_timeout: float = Field(60, gt=0, description="Seconds without a byte in which a message that began stays.")
    answer_timeout: float = Field(60, gt=0, description="Seconds in which a sender must take an answer.")
    large: int = Field(8, ge=1, description="Messages above 1 MB that are taken at a time; others wait for them.")
