"""Sites that send a study round: it is stopped where it began, while its copy is there and when it has expired."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.dcmtk import storescu
from tests.support.kivuko import System, embedded
from tests.support.process import wait_until
from tests.support.synthetic import make_study, new_uid

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
SITES = ("A", "B", "C")


@pytest.fixture
def ring(tmp_path: Path) -> Iterator[dict[str, System]]:
    """Three Kivukos, each of which sends all that it gets on to the next: images of MR, whole studies of CT."""
    made = {
        site: embedded(tmp_path / site, KIVUKO_INGEST_RETENTION_SECONDS="0.2", KIVUKO_INGEST_QUIET_SECONDS="2")
        for site in SITES
    }
    try:
        for system in made.values():
            system.start()
        for place, site in enumerate(SITES):
            before, after = SITES[place - 1], SITES[(place + 1) % len(SITES)]
            made[site].apply(network(site, before, after, made[after].dicom_port))
        yield made
    finally:
        for system in made.values():
            system.kill()


def network(site: str, before: str, after: str, port: int) -> str:
    """Write the network definition of a site."""
    document = {
        "kivuko": 1,
        "name": site,
        "aets": [site],
        "sites": {each.lower(): {"name": each} for each in SITES},
        "nodes": {
            "STORESCU": {"site": site.lower(), "host": "127.0.0.1", "may": ["store"]},
            before: {"site": before.lower(), "host": "127.0.0.1", "may": ["store"]},
            after: {"site": after.lower(), "host": "127.0.0.1", "port": port},
        },
        "destinations": {"next": {"node": after}},
        "rules": [
            {"name": "MR", "trigger": "instance", "when": 'instance.Modality == "MR"', "deliver": "next"},
            {"name": "CT", "trigger": "study", "when": 'study.Modality == "CT"', "deliver": "next"},
        ],
        "retention": [{"modality": ["CT"], "keep": "1s"}],
    }
    return json.dumps(document)


def told(system: System, uid: str, event: str) -> list[dict[str, Any]]:
    """Give the events of a kind that the audit knows of a study."""
    return [entry for entry in system.timeline(uid) if entry["event"] == event]


def test_a_study_goes_round_once_and_is_stopped_where_it_began(ring: dict[str, System], tmp_path: Path) -> None:
    live, expiring = new_uid(), new_uid()
    first, last = ring["A"], ring["C"]
    sets = {
        live: make_study(tmp_path, 2, study_uid=live, Modality="MR"),
        expiring: make_study(tmp_path, 2, study_uid=expiring, Modality="CT"),
    }
    for paths in sets.values():
        sent = storescu(first.dicom_port, paths, called="A")
        assert sent.returncode == 0, sent.stdout + sent.stderr

    # While its copy is there it is known: the site before gets its success, and nothing is sent on.
    wait_until(lambda: bool(told(last, live, "delivery.completed.v1")), "the first to be back where it began", 120)
    wait_until(lambda: "studies come back" in first.of("ingest").log.read_text(), "people to be told", 30)
    (kept,) = [study for study in first.studies() if study["study_instance_uid"] == live]
    assert (kept["instance_count"], kept["version"]) == (2, 1)

    # When its copy has expired it is kept again, decided again, and not sent again.
    wait_until(lambda: len(told(first, expiring, "study.expired.v1")) == 2, "the second to expire twice", 120)
    completed = [entry["details"]["study_version"] for entry in told(first, expiring, "delivery.completed.v1")]
    assert completed == [1, 2]
    attempts = told(first, expiring, "delivery.attempted.v1")
    assert sum(entry["details"]["sent_count"] for entry in attempts) == 2
    for site in ("B", "C"):
        assert len(told(ring[site], expiring, "study.completed.v1")) == 1
        assert not told(ring[site], expiring, "study.amended.v1")
    assert "studies go round between sites" in first.of("rules").log.read_text()
    decisions = first.of("rules").get("/v1/rules/decisions", study=expiring)["decisions"]
    assert any("came round" in error for each in decisions for error in each["decision"]["errors"])
