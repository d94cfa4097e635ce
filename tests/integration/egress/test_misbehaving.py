"""Egress against destinations that misbehave, on real sockets: what was not sent is never shown as sent."""

import hashlib
import re
import ssl
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Row

from tests.integration.egress.stand import QUICK, Stand, network, stand
from tests.support.authority import Authority
from tests.support.behaviour import NEVER, SOONER_OR_LATER, Answers, Behaviour, Do, Fault, When
from tests.support.dicomset import dataset_bytes
from tests.support.misbehaving import Destination
from tests.support.synthetic import make_ct, make_study

pytestmark = pytest.mark.integration
#: Silence is borne for so long; a machine that is busy answers later than it would.
HASTY = QUICK.model_copy(
    update={"connect_timeout": 1, "acse_timeout": 0.5, "response_timeout": 0.5, "network_timeout": 0.5}
)
#: For those that are never silent: that the machine is busy must not look like it.
PATIENT = QUICK
_TRIES = 3
_STUDY = "1.2.3"


def two(bad: Destination, good: Destination) -> dict[str, object]:
    """Name both for `network`."""
    return {
        "destinations": {"bad": {"node": "BAD"}, "good": {"node": "GOOD"}},
        "nodes": {"BAD": {"port": bad.port, "associations": 1}, "GOOD": {"port": good.port}},
    }


def hashes(paths: list[Path]) -> dict[str, set[str]]:
    return {path.stem: {hashlib.sha256(dataset_bytes(path)).hexdigest()} for path in paths}


async def attempts(egress: Stand, destination: str) -> list[dict[str, object]]:
    return [told for told in await egress.events("delivery.attempted") if told["destination"] == destination]


@pytest.mark.parametrize("name", NEVER)
async def test_what_is_never_confirmed_is_never_shown_as_sent(name: str, tmp_path: Path) -> None:
    paths = make_study(tmp_path, 3, rows=128, cols=128)
    with Destination(NEVER[name]) as bad, Destination() as good:
        snapshot = network(1, **two(bad, good))  # type: ignore[arg-type]
        async with stand(tmp_path, snapshot, HASTY) as egress:
            wanted = egress.keep(paths)
            await egress.request(wanted, destination="bad")

            async def tried() -> bool:
                row = await egress.delivery(_STUDY, "bad")
                return row is not None and (row.state == "failed" or len(await attempts(egress, "bad")) >= _TRIES)

            await egress.until(tried)
            # Only now, when the other one has shown all that it can do.
            await egress.request(wanted, destination="good")
            await egress.until_state("done", destination="good")
            row = await explained(egress)
            told = await attempts(egress, "bad")
            items = [each for each in await egress.items() if each.delivery_id == row.id]
            completed = await egress.events("delivery.completed")

        assert {each.state for each in items} <= {"pending", "failed"}
        assert [each["destination"] for each in completed] == ["good"]
        assert sum(int(str(each["sent_count"])) for each in told) == 0
        assert bad.record.confirmed() == set()
        assert bad.record.violations == []
        assert (good.record.digests(), good.record.duplicates()) == (hashes(paths), {})
    in_words(row.reason)
    for each in items:
        # One that had no turn yet has nothing to tell.
        if each.attempts:
            in_words(each.reason)
    assert any(each["problem"] or each["failures"] for each in told)


async def explained(egress: Stand) -> Row[Any]:
    """Wait until the bad delivery waits or has failed, and says why."""
    found: list[Row[Any]] = []

    async def said() -> bool:
        row = await egress.delivery(_STUDY, "bad")
        if row is not None and row.state in ("waiting", "failed") and row.reason is not None:
            found.append(row)
        return bool(found)

    await egress.until(said)
    return found[0]


def in_words(reason: str | None) -> None:
    """See that it is for people: several words, no exception's name, no bytes, nothing of the patient."""
    assert reason is not None
    assert len(reason.split()) >= 4
    assert not re.search(r"Error\b|Errno|Traceback|\\x|Test\^Patient|^None", reason)


@pytest.mark.parametrize("name", SOONER_OR_LATER)
async def test_what_can_arrive_does(name: str, tmp_path: Path) -> None:
    behaviour = SOONER_OR_LATER[name]
    silent = name in ("hangs in the first dataset of one association", "never answers a release")
    paths = make_study(tmp_path, 5, rows=128, cols=128)
    if behaviour.syntaxes is not None:
        paths = implicit(tmp_path)
    with Destination(behaviour) as bad, Destination() as good:
        snapshot = network(1, **two(bad, good))  # type: ignore[arg-type]
        async with stand(tmp_path, snapshot, HASTY if silent else PATIENT) as egress:
            wanted = egress.keep(paths)
            for destination in ("bad", "good"):
                await egress.request(wanted, destination=destination)
            for destination in ("bad", "good"):
                await egress.until_state("done", destination=destination)
            told = await attempts(egress, "bad")
            completed = await egress.events("delivery.completed")

        assert Counter(each["destination"] for each in completed) == {"bad": 1, "good": 1}
        assert sum(int(str(each["sent_count"])) for each in told) == len(paths)
        assert bad.record.confirmed() == {path.stem for path in paths}
        assert bad.record.digests() == good.record.digests() == hashes(paths)
        assert bad.record.violations == good.record.violations == []
        assert good.record.duplicates() == {}
        # Whatever came twice was not answered with success the first time.
        assert sum(bad.record.counts().values()) - len(paths) == unconfirmed(bad)


def unconfirmed(destination: Destination) -> int:
    """Count what came whole and was answered with no success, or not at all."""
    return sum(not each.confirmed for each in destination.record.received)


def implicit(folder: Path) -> list[Path]:
    """Make images for a destination that accepts implicit little endian only."""
    return [make_ct(folder, rows=128, cols=128, implicit=True) for _ in range(3)]


@pytest.mark.parametrize("do", [Do.RESET, Do.CLOSE])
async def test_a_success_for_half_a_dataset_is_none(do: Do, tmp_path: Path) -> None:
    # Longer than what kernels take of it before anybody reads.
    path = make_ct(tmp_path, rows=4096, cols=2048)
    early = Behaviour(Fault(do, When.DATASET), answers=Answers.EARLY)
    with Destination(early) as bad, Destination() as good:
        async with stand(tmp_path, network(1, **two(bad, good)), PATIENT) as egress:  # type: ignore[arg-type]
            await egress.request(egress.keep([path]), destination="bad")

            async def tried() -> bool:
                row = await egress.delivery(_STUDY, "bad")
                return row is not None and (row.state == "done" or len(await attempts(egress, "bad")) >= _TRIES)

            await egress.until(tried)
            assert [each.state for each in await egress.items()] == ["pending"]
            assert await egress.events("delivery.completed") == []
            bad.behave(Behaviour(answers=Answers.EARLY))
            await egress.until_state("done", destination="bad")
        assert bad.record.digests() == hashes([path])


async def test_a_certificate_that_has_expired_gets_nothing(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "authority")
    paths = make_study(tmp_path, 2)
    context = ssl.create_default_context(cafile=authority.certificate)
    expired, valid = authority.issue("expired", days=-1), authority.issue("valid")
    with Destination(tls=expired) as bad, Destination(tls=valid) as good:
        ports = two(bad, good)
        for node in ports["nodes"].values():  # type: ignore[attr-defined]
            node |= {"host": "localhost", "tls": True}
        async with stand(
            tmp_path,
            network(1, **ports),  # type: ignore[arg-type]
            contexts=lambda _secret: lambda: context,
        ) as egress:
            wanted = egress.keep(paths)
            for destination in ("bad", "good"):
                await egress.request(wanted, destination=destination)
            await egress.until_state("done", destination="good")
            row = await explained(egress)
            assert {each.state for each in await egress.items() if each.delivery_id == row.id} == {"pending"}
            assert "certificate has expired" in row.reason
            in_words(row.reason)
        assert [met.asked for met in bad.record.met] == [None] * len(bad.record.met)
        assert good.record.digests() == hashes(paths)
