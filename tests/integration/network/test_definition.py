"""Applying definitions over HTTP: all or nothing, versions that only grow, one winner of a race."""

import asyncio
from pathlib import Path

import pytest

from contracts.definition import Definition, Snapshot
from contracts.envelope import Event
from contracts.network import NetworkApplied
from libs.definition.reading import read
from libs.messaging.outbox import Outbox
from libs.snapshot import NetworkView
from services.network import repository
from services.network.models import messaging, metadata
from services.network.register import OvertakenError, Register
from services.network.repository import Entry, Version
from tests.integration.network.conftest import Network
from tests.support.schema import assert_migrated

pytestmark = pytest.mark.integration

EXAMPLES = Path(__file__).parents[3] / "docs" / "examples"
CLINIC = (EXAMPLES / "clinic.yaml").read_text()
NATIONAL = (EXAMPLES / "national.yaml").read_text()
BROKEN = CLINIC.replace("port: 11200", "port: 112000").replace("deliver: archive", "deliver: archiv")


async def test_the_tables_are_those_of_the_model(database_url: str) -> None:
    await assert_migrated(database_url, "network", metadata)


@pytest.mark.parametrize("text", [CLINIC, NATIONAL], ids=["clinic", "national"])
async def test_both_examples_apply_as_they_stand(network: Network, text: str) -> None:
    answer = await network.apply(text)
    assert answer.status_code == 200, answer.text
    body = answer.json()
    assert (body["applied"], body["version"], body["previous_version"]) == (True, 1, None)
    assert {"kind": "added", "path": "nodes.CT1"} in [{"kind": c["kind"], "path": c["path"]} for c in body["changes"]]
    assert any("may: commit" in sentence for sentence in body["not_in_force"])
    (event,) = await network.events()
    applied = Event[NetworkApplied].model_validate(event)
    assert (applied.type, applied.tenant, applied.sequence) == ("kivuko.network.applied.v1", "kivuko", 1)
    assert applied.data.version == 1
    assert applied.data.document_hash == body["document_hash"] == read(text).sha256
    assert applied.data.change_count == len(body["changes"])
    snapshot = await network.snapshot()
    assert snapshot is not None
    assert snapshot.definition == Definition.model_validate(read(text).data)


async def test_problems_are_listed_with_their_place_and_nothing_is_applied(network: Network) -> None:
    answer = await network.apply(BROKEN, params={"filename": "clinic.yaml"})
    assert answer.status_code == 422
    assert answer.headers["content-type"].startswith("application/problem+json")
    body = answer.json()
    assert body["title"] == "Definition refused"
    assert body["detail"] == "clinic.yaml has 2 problems; nothing was applied."
    assert [(flaw["file"], flaw["line"], flaw["path"]) for flaw in body["problems"]] == [
        ("clinic.yaml", 11, "nodes.ARCHIVE.port"),
        ("clinic.yaml", 19, "rules[0].deliver"),
    ]
    assert "at most 65535" in body["problems"][0]["message"]
    assert body["problems"][1]["hint"] == "did you mean archive?"
    assert await network.snapshot() is None
    assert await network.events() == []


async def test_bytes_that_are_no_text_have_a_place_too(network: Network) -> None:
    answer = await network.local.post("/v1/network/definition", content=b"kivuko: 1\nname: \xff\n")
    assert answer.status_code == 422
    (flaw,) = answer.json()["problems"]
    assert (flaw["line"], flaw["column"], flaw["message"]) == (2, 7, "this is not UTF-8")


async def test_a_refused_definition_leaves_the_one_in_force(network: Network) -> None:
    await network.apply(CLINIC)
    before = await network.snapshot()
    assert (await network.apply(BROKEN)).status_code == 422
    assert await network.snapshot() == before
    assert len(await network.events()) == 1


async def test_a_dry_run_says_what_would_change_and_changes_nothing(network: Network) -> None:
    await network.apply(CLINIC)
    changed = CLINIC.replace("port: 11200", "port: 11201")
    body = (await network.apply(changed, params={"dry_run": "true"})).json()
    assert (body["applied"], body["dry_run"], body["version"]) == (False, True, 1)
    assert body["changes"] == [{"kind": "changed", "path": "nodes.ARCHIVE.port", "old": 11200, "new": 11201}]
    assert len(await network.events()) == 1


async def test_the_very_same_document_makes_no_new_version(network: Network) -> None:
    await network.apply(CLINIC)
    body = (await network.apply(CLINIC)).json()
    assert (body["applied"], body["version"], body["changes"]) == (False, 1, [])
    body = (await network.apply(CLINIC + "# a remark\n")).json()
    assert (body["applied"], body["version"], body["changes"]) == (True, 2, [])
    assert len(await network.events()) == 2


async def test_the_snapshot_has_an_etag(network: Network) -> None:
    assert (await network.local.get("/v1/network/snapshot")).status_code == 404
    await network.apply(NATIONAL)
    first = await network.local.get("/v1/network/snapshot")
    assert first.headers["etag"] == '"1"'
    assert Snapshot.model_validate_json(first.content) == await network.snapshot()
    again = await network.local.get("/v1/network/snapshot", headers={"if-none-match": '"1"'})
    assert (again.status_code, again.content) == (304, b"")
    await network.apply(CLINIC)
    assert (await network.local.get("/v1/network/snapshot", headers={"if-none-match": '"1"'})).status_code == 200


async def test_if_match_keeps_one_from_overwriting_what_one_has_not_seen(network: Network) -> None:
    assert (await network.apply(CLINIC, headers={"if-match": '"0"'})).status_code == 200
    assert (await network.apply(NATIONAL, headers={"if-match": '"0"'})).status_code == 412
    assert (await network.apply(NATIONAL, headers={"if-match": '"1"'})).status_code == 200
    assert (await network.apply(CLINIC, headers={"if-match": "one"})).status_code == 400
    assert len(await network.events()) == 2


async def test_of_two_that_apply_at_once_one_wins_and_the_other_is_told(network: Network) -> None:
    changed = [CLINIC.replace("port: 11200", f"port: {port}") for port in (11300, 11301)]
    answers = await asyncio.gather(*(network.apply(text) for text in changed))
    codes = sorted(answer.status_code for answer in answers)
    history = (await network.local.get("/v1/network/history")).json()["versions"]
    # Either they overlapped, and one was told; or one came after the other.
    assert codes in ([200, 409], [200, 200])
    assert [entry["version"] for entry in history] == list(range(codes.count(200), 0, -1))
    assert len(await network.events()) == codes.count(200)


async def test_whoever_was_overtaken_while_checking_changes_nothing(network: Network) -> None:
    """The race, made certain: another one applies after the check and before the write."""
    await network.apply(CLINIC)

    class Late(Register):
        async def _keep(self, new: Version, definition: Definition, base: Entry | None) -> None:
            await network.apply(NATIONAL)
            await super()._keep(new, definition, base)

    late = Late(network.database, Outbox("network", "test", network.clock, messaging), network.clock)
    with pytest.raises(OvertakenError):
        await late.apply(CLINIC.replace("11200", "11300"), filename="late.yaml", actor="local")
    snapshot = await network.snapshot()
    assert snapshot is not None
    assert (snapshot.version, snapshot.definition.name) == (2, "Red nacional de imagen")
    assert len(await network.events()) == 2


async def test_the_number_of_a_version_is_taken_only_once(network: Network) -> None:
    await network.apply(CLINIC)
    async with network.database.reading() as tx:
        first = await repository.version_text(tx, 1)
    assert first is not None
    with pytest.raises(repository.TakenError):
        async with network.database.transaction() as tx:
            await repository.add_version(tx, first, Definition.model_validate(read(CLINIC).data))


async def test_history_documents_differences(network: Network) -> None:
    assert (await network.local.get("/v1/network/definition/current")).status_code == 404
    await network.apply(CLINIC, params={"filename": "clinic.yaml", "comment": "the first"})
    network.clock.goes(hours=1)
    await network.apply(CLINIC.replace("port: 11200", "port: 11201"))
    newest, oldest = (await network.local.get("/v1/network/history")).json()["versions"]
    assert (oldest["version"], oldest["comment"], oldest["applied_by"]) == (1, "the first", "local")
    assert oldest["applied_at"] == "2026-11-20T10:00:00Z"
    assert (newest["version"], newest["change_count"]) == (2, 1)
    assert (await network.local.get("/v1/network/history", params={"before": 2})).json()["versions"] == [oldest]
    assert (await network.local.get("/v1/network/definition/1")).json()["text"] == CLINIC
    assert (await network.local.get("/v1/network/definition/current")).json()["version"] == 2
    assert (await network.local.get("/v1/network/definition/3")).status_code == 404
    change = {"kind": "changed", "path": "nodes.ARCHIVE.port", "old": 11200, "new": 11201}
    compared = (await network.local.get("/v1/network/difference")).json()
    assert (compared["from_version"], compared["to_version"], compared["changes"]) == (1, 2, [change])
    back = (await network.local.get("/v1/network/difference", params={"from": 2, "to": 1})).json()
    assert back["changes"] == [change | {"old": 11201, "new": 11200}]


async def test_a_rollback_is_a_new_and_higher_version(network: Network) -> None:
    await network.apply(CLINIC)
    await network.apply(NATIONAL)
    body = (await network.local.post("/v1/network/rollback", json={"version": 1})).json()
    assert (body["applied"], body["version"], body["previous_version"]) == (True, 3, 2)
    snapshot = await network.snapshot()
    assert snapshot is not None
    assert (snapshot.version, snapshot.definition.name) == (3, "Clinica Luba")
    assert (await network.events())[-1]["data"]["rollback_of"] == 1
    assert (await network.local.get("/v1/network/history")).json()["versions"][0]["rollback_of"] == 1
    assert (await network.local.post("/v1/network/rollback", json={"version": 9})).status_code == 404


async def test_a_rollback_to_what_this_release_refuses_changes_nothing(network: Network) -> None:
    """An older release took a document that this one does not: it says why, as for any document."""
    await network.apply(CLINIC)
    async with network.database.transaction() as tx:
        old = repository.Version(
            version=2,
            filename="old.yaml",
            document_hash="0" * 64,
            applied_at=network.clock(),
            applied_by="local",
            change_count=1,
            not_in_force=(),
            text=BROKEN,
        )
        await repository.add_version(tx, old, Definition.model_validate(read(CLINIC).data))
    await network.apply(NATIONAL)
    answer = await network.local.post("/v1/network/rollback", json={"version": 2})
    assert answer.status_code == 422
    assert answer.json()["problems"][0]["file"] == "old.yaml"
    snapshot = await network.snapshot()
    assert snapshot is not None
    assert snapshot.version == 3


async def test_another_process_sees_the_new_version_when_it_asks(network: Network, tmp_path: Path) -> None:
    view = NetworkView(lambda: repository.current_snapshot(network.database), tmp_path / "kept.json")
    assert not await view.refresh()
    await network.apply(NATIONAL)
    assert await view.refresh()
    assert view.current == await network.snapshot()
    assert (
        NetworkView(lambda: repository.current_snapshot(network.database), tmp_path / "kept.json").current
        == view.current
    )


async def test_uses_are_recorded(network: Network) -> None:
    await network.apply(CLINIC)
    assert [(use.permission, use.status) for use in network.uses] == [("network.apply", 100), ("network.apply", 200)]


async def test_a_restart_does_not_undo_what_was_applied_since(network: Network) -> None:
    first = await network.register.apply_at_start(CLINIC, filename="clinic.yaml")
    await network.apply(NATIONAL)
    again = await network.register.apply_at_start(CLINIC, filename="clinic.yaml")
    edited = await network.register.apply_at_start(CLINIC.replace("11200", "11300"), filename="clinic.yaml")
    assert first is not None
    assert (first.version, again) == (1, None)
    assert edited is not None
    assert edited.version == 3
