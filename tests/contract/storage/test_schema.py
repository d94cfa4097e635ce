"""Every service's revisions make the tables that its code uses, on both databases."""

import importlib
from pathlib import Path

import pytest
from sqlalchemy import MetaData

from tests.support.schema import assert_migrated

SERVICES = [
    folder.name
    for folder in sorted((Path(__file__).parents[3] / "services").iterdir())
    if (folder / "migrations").is_dir()
]


def metadata_of(service: str) -> MetaData:
    models = importlib.import_module(f"services.{service}.models")
    found = [value for value in vars(models).values() if isinstance(value, MetaData)]
    assert len(found) == 1, f"services/{service}/models.py has one MetaData"
    return found[0]


@pytest.mark.contract
@pytest.mark.parametrize("service", SERVICES)
async def test_migrated_equals_fresh(database_url: str, service: str) -> None:
    await assert_migrated(database_url, service, metadata_of(service))


def test_services_were_found() -> None:
    assert {"ingest", "rules", "egress", "audit", "network"} <= set(SERVICES)
