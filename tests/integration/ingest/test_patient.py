"""One Patient ID, two people: both studies are flagged, nothing is merged."""

import asyncio
import copy
import random
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from sqlalchemy import select

from contracts.fact import Attributes
from libs.clock import utc_now
from libs.messaging.outbox import Outbox
from services.ingest.flagging import MOST_STUDIES, Flagging
from services.ingest.models import flags, messaging, patients, studies
from tests.integration.ingest.conftest import NETWORK, Running, running
from tests.integration.ingest.peer import send
from tests.integration.ingest.test_same_uid import contents
from tests.support.synthetic import make_ct

pytestmark = pytest.mark.integration


async def arrive(ingest: Running, path: Path, calling: str = "CT1") -> None:
    """Send one file, and wait for it to be indexed."""
    assert await asyncio.to_thread(send, ingest.port, [path], calling=calling) == [0]
    await ingest.until_indexed()


async def pairs(ingest: Running) -> set[tuple[str, str, tuple[str, ...]]]:
    """Give the flags: study, the study that it differs from, and in what."""
    rows = await ingest.rows(
        select(studies.c.study_uid, flags.c.other_study_uid, flags.c.fields).join(
            flags, flags.c.study_id == studies.c.id
        )
    )
    return {(study, other, tuple(fields)) for study, other, fields in rows}


def network(**issuers: str) -> dict[str, Any]:
    """Make the definition with issuers of nodes."""
    made = copy.deepcopy(NETWORK)
    for node, issuer in issuers.items():
        made["nodes"][node]["issuer"] = issuer
    return made


@pytest.mark.parametrize("luck", range(2))
async def test_both_studies_are_flagged_in_any_order_and_told(tmp_path: Path, luck: int, database_url: str) -> None:
    named: dict[str, dict[str, Any]] = {
        "1.1": {"PatientName": "Doe^Jane", "PatientBirthDate": "19700101"},
        "1.2": {"PatientName": "DOE^JANE ", "PatientBirthDate": None},
        "1.3": {"PatientName": "Roe^Richard", "PatientBirthDate": "19700101"},
        "1.4": {"PatientName": None, "PatientBirthDate": "19800101"},
        "1.5": {"PatientName": "Poe^Edgar", "PatientBirthDate": "19000101", "IssuerOfPatientID": "ELSEWHERE"},
    }
    paths = [make_ct(tmp_path, study_uid=uid, **said) for uid, said in named.items()]
    paths.append(make_ct(tmp_path, study_uid="1.1", **named["1.1"]))
    random.Random(luck).shuffle(paths)
    async with running(tmp_path / "home", database_url=database_url) as ingest:
        for path in paths:
            await arrive(ingest, path)
        name, born = "PatientName", "PatientBirthDate"
        one_way = {("1.1", "1.3", (name,)), ("1.2", "1.3", (name,)), ("1.1", "1.4", (born,)), ("1.3", "1.4", (born,))}
        expected = one_way | {(other, study, fields) for study, other, fields in one_way}
        assert await pairs(ingest) == expected
        told = [event["data"] for event in await ingest.events("study.flagged")]
        assert {
            (each["study_instance_uid"], each["other_study_instance_uid"], tuple(each["fields"])) for each in told
        } == expected
        assert len(told) == len(expected)
        assert len(await ingest.rows(select(studies))) == 5


async def test_an_id_means_something_with_its_issuer_and_tenant_only(tmp_path: Path) -> None:
    async with running(tmp_path / "home", network=network(CT1="LUBA", MR1="BATA")) as ingest:
        await arrive(ingest, make_ct(tmp_path, PatientName="Doe^Jane"))
        await arrive(ingest, make_ct(tmp_path, PatientName="Roe^Jane"), calling="MR1")
        await arrive(ingest, make_ct(tmp_path, PatientName="Poe^Jane"), calling="NORTH")
        assert await pairs(ingest) == set()
        rows = await ingest.rows(select(patients.c.tenant, patients.c.issuer).order_by(patients.c.id))
        assert [tuple(row) for row in rows] == [("default", "LUBA"), ("default", "BATA"), ("north", "")]
        await arrive(ingest, make_ct(tmp_path, study_uid="1.9", PatientName="Joe^Jane", IssuerOfPatientID="LUBA"))
        assert {study for study, _, _ in await pairs(ingest)} >= {"1.9"}
        assert len(await pairs(ingest)) == 2


async def test_a_study_that_contradicts_itself_is_flagged(tmp_path: Path) -> None:
    async with running(tmp_path / "home") as ingest:
        await arrive(ingest, make_ct(tmp_path, study_uid="1.1", PatientName="Doe^Jane"))
        await arrive(ingest, make_ct(tmp_path, study_uid="1.1", PatientName="Roe^Jane"))
        assert await pairs(ingest) == {("1.1", "1.1", ("PatientName",))}
        await arrive(ingest, make_ct(tmp_path, study_uid="1.1", PatientName="Roe^Jane", PatientBirthDate="19800101"))
        assert await pairs(ingest) == {("1.1", "1.1", ("PatientBirthDate", "PatientName"))}
        assert len(await ingest.events("study.flagged")) == 2


async def test_the_patient_of_a_content_that_takes_the_place_is_compared(tmp_path: Path) -> None:
    made = network()
    made["same-uid"] = "new-version"
    first, other = contents(tmp_path)
    said = dcmread(other)
    said.PatientName = "Roe^Richard"
    said.save_as(other)
    async with running(tmp_path / "home", network=made) as ingest:
        await arrive(ingest, first)
        await arrive(ingest, other)
        study = str(said.StudyInstanceUID)
        assert await pairs(ingest) == {(study, study, ("PatientName",))}
        assert len(await ingest.events("study.flagged")) == 1


async def test_two_replicas_that_index_at_once_miss_nothing(tmp_path: Path, database_url: str) -> None:
    async with running(tmp_path / "home", database_url=database_url, loops=False) as ingest:
        names = ("Doe^Jane", "Roe^Jane", "Poe^Jane")

        async def index(number: int) -> None:
            replica = Flagging(Outbox("ingest", "test", utc_now, messaging), definition=lambda: None, clock=utc_now)
            async with ingest.database.transaction() as tx:
                await tx.execute(studies.insert().values(**_study(f"1.{number}")))
                said: Attributes = {"PatientID": "P1", "PatientName": names[number]}
                await replica.note(tx, ("default", f"1.{number}"), ("luba", "CT1"), [said])

        await asyncio.gather(*(index(number) for number in range(3)))
        name = ("PatientName",)
        assert await pairs(ingest) == {
            (f"1.{one}", f"1.{two}", name) for one in range(3) for two in range(3) if one != two
        }


async def test_an_id_of_no_one_patient_is_not_compared_for_ever(tmp_path: Path) -> None:
    async with running(tmp_path / "home", loops=False) as ingest:
        flagging = Flagging(Outbox("ingest", "test", utc_now, messaging), definition=lambda: None, clock=utc_now)
        for number in range(MOST_STUDIES + 5):
            async with ingest.database.transaction() as tx:
                await tx.execute(studies.insert().values(**_study(f"1.{number}")))
                said: Attributes = {"PatientID": "0", "PatientName": f"Doe^N{number}"}
                await flagging.note(tx, ("default", f"1.{number}"), ("luba", "CT1"), [said])
        assert len(await pairs(ingest)) == MOST_STUDIES * (MOST_STUDIES + 1)


def _study(uid: str) -> dict[str, Any]:
    return {
        "tenant": "default",
        "study_uid": uid,
        "first_arrival": utc_now(),
        "first_arrival_id": uid,
        "last_arrival": utc_now(),
        "source": {},
        "sites": [],
    }
