"""An environment that does not fit is told by the names of its variables, never by their values."""

from pathlib import Path

import pytest
from pydantic import ValidationError

from libs.settings import Settings
from services.cli.composition import MisconfiguredError, embedded, single
from services.cli.environment import misfit
from services.egress.settings import EgressSettings
from services.ingest.settings import IngestSettings

pytestmark = pytest.mark.unit


@pytest.mark.parametrize(
    ("settings", "variable"),
    [
        (Settings, "KIVUKO_DICOM_PORT"),
        (IngestSettings, "KIVUKO_INGEST_QUIET_SECONDS"),
        (EgressSettings, "KIVUKO_EGRESS_LEASE"),
    ],
)
def test_the_variable_is_named(settings: type, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(variable, "pa55word")
    with pytest.raises(ValidationError) as caught:
        settings()
    what, mend = misfit(caught.value)
    assert variable in what
    assert "pa55word" not in what
    assert mend


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("KIVUKO_BROKER_URL", "http://u:pa55word@h"),
        ("KIVUKO_BROKER_URL", "amqp://u:pa55word@h:port/"),
        ("KIVUKO_DATABASE_URL", "mysql://u:pa55word@h"),
        ("KIVUKO_DATABASE_URL", "u:pa55word@h"),
        ("KIVUKO_OBJECTS_URL", "ftp://u:pa55word@h"),
        ("KIVUKO_OBJECTS_URL", "s3://u:pa55word@"),
    ],
)
def test_an_address_that_does_not_fit_is_named(
    variable: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KIVUKO_HOME", str(tmp_path))
    monkeypatch.setenv(variable, value)
    with pytest.raises(MisconfiguredError) as caught:
        embedded(Settings(), None)
    assert variable in str(caught.value)
    assert "pa55word" not in str(caught.value)


def test_a_service_of_a_cluster_must_know_where_network_is(tmp_path: Path) -> None:
    with pytest.raises(MisconfiguredError, match="KIVUKO_NETWORK_URL and KIVUKO_SERVICE_TOKEN"):
        single("ingest", Settings(home=tmp_path), None)  # type: ignore[arg-type]  # it does not come to HTTP


def test_a_port_with_tls_needs_its_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KIVUKO_TLS_KEY", "/srv/tls/tls.key")
    Settings()
    monkeypatch.setenv("KIVUKO_DICOM_TLS_PORT", "2762")
    with pytest.raises(ValidationError) as caught:
        Settings()
    what, _ = misfit(caught.value)
    assert "KIVUKO_TLS_CERTIFICATE, KIVUKO_TLS_CA" in what
    assert "/srv" not in what
