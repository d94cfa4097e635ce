"""Settings of orders that meet studies."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class MatchingSettings(BaseSettings):
    """When an order or a study is taken to stay alone."""

    model_config = SettingsConfigDict(env_prefix="KIVUKO_WORKLIST_", frozen=True, extra="ignore")

    order_grace_hours: float = Field(
        24, gt=0, description="Hours after its start in which an order may be without a study."
    )
    study_grace_hours: float = Field(1, gt=0, description="Hours in which a complete study may be without an order.")
    unmatched_days: int = Field(30, ge=1, description="How far back is looked for what stays alone.")
