"""A partner is told of a study that arrived, and fetches it over HTTPS: whole, one by one, and nobody else does."""

import asyncio
import json
import ssl
import zipfile
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aio_pika
import httpx
import pytest

from contracts.envelope import Event
from contracts.partner import StudyAvailable
from tests.conftest import StoreScpFactory
from tests.e2e.conftest import definition
from tests.support.authority import Authority
from tests.support.dcmtk import StoreScp, storescu
from tests.support.dicomset import dataset_bytes
from tests.support.kivuko import System, cluster, embedded
from tests.support.port import free_port
from tests.support.postgresql import PostgreSQL
from tests.support.process import wait_until
from tests.support.proxy import Proxy
from tests.support.rabbitmq import RabbitMQ
from tests.support.seaweedfs import SeaweedFS
from tests.support.synthetic import make_study, new_uid

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]
_PATIENCE_S = 60


@dataclass
class Region:
    """A cluster with what operators put in front of it."""

    system: System
    broker: str
    client: httpx.AsyncClient


@pytest.fixture
async def region(tmp_path: Path, rabbitmq: RabbitMQ, postgresql: PostgreSQL, s3: SeaweedFS) -> AsyncIterator[Region]:
    """A started cluster, whose HTTP and object store partners reach with TLS only; it may send them to the store."""
    authority = Authority(tmp_path / "authority")
    ours = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    issued = authority.issue("localhost")
    ours.load_cert_chain(issued.certificate, issued.key)
    front, store_front, broker = free_port(), free_port(), rabbitmq.vhost()
    env = {
        "KIVUKO_EGRESS_PUBLIC_URL": f"https://localhost:{front}",
        "KIVUKO_EGRESS_PUBLIC_OBJECTS_URL": f"https://localhost:{store_front}",
    }
    system = await asyncio.to_thread(cluster, tmp_path, broker, postgresql.database(), s3.bucket(), **env)
    async with AsyncExitStack() as stack:
        stack.callback(system.kill)
        await asyncio.to_thread(system.start)
        behind = urlsplit(system.of("egress").http).port or 0
        for own, to in ((front, behind), (store_front, s3.port)):
            await stack.enter_async_context(Proxy(to, own, ours).standing())
        trust = ssl.create_default_context(cafile=authority.certificate)
        client = httpx.AsyncClient(verify=trust, trust_env=False, timeout=_PATIENCE_S)
        yield Region(system, broker, await stack.enter_async_context(client))


def with_partner(archive: StoreScp) -> str:
    """Write the network of all these tests, with a partner that is told of complete studies, and one that is not."""
    network = json.loads(definition(archive))
    network["partners"] = {
        "telerad": {"tenant": "telerad-sl", "events": ["study.available"], "sites": ["luba"]},
        "other": {"tenant": "other-sl", "events": ["study.available"], "sites": ["luba"]},
    }
    network["rules"] = [{"name": "to be read", "trigger": "study", "deliver": "archive", "notify": ["telerad"]}]
    return json.dumps(network)


def sent_by_storescu(system: System, folder: Path, reference: StoreScp) -> tuple[str, dict[str, bytes]]:
    """Send a study of three; give its UID, and the bytes of each dataset as storescu puts them on the wire."""
    study = new_uid()
    paths = make_study(folder, 3, study_uid=study)
    for port, called in ((reference.port, reference.aet), (system.dicom_port, "KIVUKO")):
        sent = storescu(port, paths, called=called)
        assert sent.returncode == 0, sent.stdout + sent.stderr
    return study, {path.name.partition(".")[2]: dataset_bytes(path) for path in reference.files()}


def create_token(system: System, name: str, tenant: str) -> dict[str, str]:
    """Create a partner's token; give it as the header of a request."""
    made = system.of("network").cli("token", "create", name, "--role", "integrator", "--tenant", tenant, "--json")
    assert made.returncode == 0, made.stderr
    return {"Authorization": f"Bearer {json.loads(made.stdout)['token']}"}


def done(system: System, study: str) -> bool:
    """Tell whether the delivery that tells the partner of a study is done: the event is in its queue."""
    found = system.of("egress").get("/v1/egress/deliveries", study=study)["deliveries"]
    return ("partner:telerad", "done") in {(each["destination"], each["state"]) for each in found}


async def told(broker: str) -> Event[StudyAvailable]:
    """Take the one event that is in the partner's queue."""
    async with await aio_pika.connect(broker) as connection:
        queue = await (await connection.channel()).get_queue("partner.telerad-sl")
        message = await queue.get()
        assert message is not None
        assert message.routing_key == "partner.telerad-sl.study.available.v1"
        await message.ack()
        assert await queue.get(fail=False) is None
        return Event[StudyAvailable].model_validate(json.loads(message.body))


async def test_a_partner_fetches_what_it_was_told_of(region: Region, storescp: StoreScpFactory, tmp_path: Path) -> None:
    archive, reference = storescp(aet="ARCHIVE"), storescp(aet="REFERENCE")
    system, client = region.system, region.client
    await asyncio.to_thread(system.apply, with_partner(archive))
    # Before the study, so that egress has long heard of them.
    partner, other = [
        await asyncio.to_thread(create_token, system, name, f"{name}-sl") for name in ("telerad", "other")
    ]
    study, datasets = await asyncio.to_thread(sent_by_storescu, system, tmp_path, reference)
    await asyncio.to_thread(wait_until, lambda: done(system, study), "the partner to be told", 120)

    event = await told(region.broker)

    assert (event.data.study_instance_uid, event.data.instance_count) == (study, 3)
    answer = await client.get(event.data.reference, headers=partner)
    listed = answer.raise_for_status().json()
    assert {each["sop_instance_uid"] for each in listed["instances"]} == datasets.keys()
    host = event.data.reference.partition("/v1/")[0]
    for each in listed["instances"]:
        address = host + each["reference"]
        first = await client.get(address, headers=partner)
        assert (first.status_code, first.content) == (307, b"")
        first = await client.get(first.headers["location"])
        assert first.headers["content-type"] == "application/dicom"
        assert dataset_of(first.content, tmp_path) == datasets[each["sop_instance_uid"]]
        followed = await client.get(address, headers=partner, follow_redirects=True)
        assert followed.content == first.content

    archived = zipfile.ZipFile(BytesIO((await client.get(host + listed["archive"], headers=partner)).content))
    assert archived.testzip() is None
    assert {name: dataset_of(archived.read(name), tmp_path) for name in archived.namelist()} == {
        f"{study}/{uid}.dcm": dataset for uid, dataset in datasets.items()
    }

    for path in (listed["archive"], *(each["reference"] for each in listed["instances"])):
        refused = await client.get(host + path, headers=other)
        assert refused.status_code == httpx.codes.NOT_FOUND
        assert (await client.get(host + path)).status_code == httpx.codes.UNAUTHORIZED
    await asyncio.to_thread(recorded, system, study)
    for process in system.processes.values():
        assert "X-Amz" not in process.log.read_text(), "a link is in a log"


def dataset_of(content: bytes, folder: Path) -> bytes:
    """Give the bytes of the dataset of a Part 10 file."""
    path = folder / "fetched.dcm"
    path.write_bytes(content)
    return dataset_bytes(path)


def recorded(system: System, study: str) -> None:
    """See that the audit has each use of the partner's, by route, and with what it was answered."""

    def uses() -> list[dict[str, Any]]:
        audit = system.of("audit")
        found = audit.get("/v1/audit/records", type="kivuko.access.used.v1", subject=study)["records"]
        return [audit.get(f"/v1/audit/records/{each['seq']}")["data"] for each in found]

    def fetched() -> set[str]:
        return {each["route"].rpartition("/")[2] for each in uses() if each["actor"] == "telerad"}

    wait_until(lambda: len(fetched()) == 3, "the record of what the partner fetched")
    mine = [each for each in uses() if each["actor"] == "telerad"]
    assert {each["permission"] for each in mine} == {"studies.fetch"}
    # The list and all of them at once are streamed; each instance is asked for twice, and both times there is a link.
    assert {each["status"] for each in mine} == {307, 200}
    assert len(mine) == 8


def test_where_there_is_no_rabbitmq_the_partner_s_delivery_is_held_and_all_else_goes(
    storescp: StoreScpFactory, tmp_path: Path
) -> None:
    archive, reference = storescp(aet="ARCHIVE"), storescp(aet="REFERENCE")
    system = embedded(tmp_path, KIVUKO_EGRESS_PUBLIC_URL="https://images.example")
    try:
        system.start()
        applied = system.apply(with_partner(archive))
        assert "partners.telerad is told by deployments with RabbitMQ only" in json.dumps(applied)
        study, datasets = sent_by_storescu(system, tmp_path, reference)
        wait_until(lambda: len(archive.files()) == len(datasets), "the study at the archive")

        def held() -> Iterator[str]:
            found = system.of("egress").get("/v1/egress/deliveries", study=study)["deliveries"]
            return (
                each["reason"] for each in found if (each["destination"], each["state"]) == ("partner:telerad", "held")
            )

        wait_until(lambda: any("RabbitMQ only" in reason for reason in held()), "the partner's delivery to be held")
    finally:
        system.kill()
