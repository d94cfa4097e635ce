"""Settings of rules alone."""

from pydantic import Field
from pydantic_settings import BaseSettings, SettingsConfigDict


class RulesSettings(BaseSettings):
    """What rules are told from outside, besides `libs.settings.Settings`."""

    model_config = SettingsConfigDict(env_prefix="KIVUKO_RULES_", frozen=True, extra="ignore")

    history_days: int = Field(
        180, ge=1, le=36_500, description="How long what the rules saw of a study is kept, for explain and replay."
    )
    replay_processes: int = Field(2, ge=1, le=64, description="Processes of a replay, all of the lowest priority.")
    replay_headers: int = Field(
        100_000, ge=0, description="Of how many studies a replay reads header documents for what is not recorded."
    )
    replay_seconds: int = Field(7200, ge=1, description="Longest time that a replay may take.")
