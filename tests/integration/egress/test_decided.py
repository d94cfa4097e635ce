"""What was decided is done as it was decided; what is asked for anew goes again only if it would become another."""

import asyncio
import threading
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from pynetdicom import AE, evt

from contracts.definition import Snapshot
from services.egress.orders import Given
from services.egress.outcome import TRANSFORM
from tests.integration.egress.stand import network, stand
from tests.integration.egress.test_transforms import made_of, with_transforms
from tests.support.synthetic import CT_IMAGE_STORAGE, EXPLICIT_LITTLE_ENDIAN, make_study

pytestmark = pytest.mark.integration

REFUSES = {"map": {"Modality": {"values": {"MR": "MR"}, "otherwise": "refuse"}}}


class Archive:
    """An archive that notes the Patient ID of each instance that comes, and answers when it is told to."""

    def __init__(self) -> None:
        self.patients: list[str] = []
        self.came = threading.Event()
        self.goes_on = threading.Event()
        self.goes_on.set()
        self.port = 0

    def store(self, event: evt.Event) -> int:
        """Answer a C-STORE request."""
        found = dcmread(BytesIO(event.encoded_dataset()), stop_before_pixels=True)
        self.patients.append(str(found.PatientID))
        self.came.set()
        self.goes_on.wait(30)
        return 0


@pytest.fixture
def archive() -> Iterator[Archive]:
    found = Archive()
    entity = AE("STORESCP")
    entity.add_supported_context(CT_IMAGE_STORAGE, EXPLICIT_LITTLE_ENDIAN)
    server: Any = entity.start_server(("127.0.0.1", 0), block=False, evt_handlers=[(evt.EVT_C_STORE, found.store)])
    found.port = server.server_address[1]
    try:
        yield found
    finally:
        found.goes_on.set()
        server.shutdown()


def prefix(text: str) -> dict[str, Any]:
    return {"prefix": {"PatientID": text}}


def definition(
    archive: Archive, version: int = 1, own: dict[str, Any] | None = None, **transforms: dict[str, Any]
) -> Snapshot:
    """Make a version; with `own`, the destination has a transform of its own."""
    target = {"node": "PACS"} | ({} if own is None else {"transform": "own"})
    made = network(version, {"archive": target}, {"PACS": {"port": archive.port}})
    return with_transforms(made, transforms | ({} if own is None else {"own": own}))


async def test_a_rules_transform_is_done_as_it_was_decided_whatever_was_applied_since(
    tmp_path: Path, archive: Archive
) -> None:
    """The one is in the definition no more, the other says something else there."""
    async with stand(tmp_path, definition(archive, 2, a=prefix("new-"))) as egress:
        [one, other] = egress.keep(make_study(tmp_path, 2, PatientID="4711"))
        await egress.request([one], transform="a", document=prefix("old-"), closes=False)
        await egress.request([other], transform="gone", document=prefix("gone-"), expected=2)
        await egress.until_state("done")
    assert sorted(archive.patients) == ["gone-4711", "old-4711"]


async def test_what_was_decided_outlives_a_restart_without_the_network(tmp_path: Path, archive: Archive) -> None:
    async with stand(tmp_path, definition(archive, 1, a=prefix("old-"))) as egress:
        await egress.orders.pause("archive", "op", None)
        await egress.request(
            egress.keep(make_study(tmp_path, 1, PatientID="4711")), transform="a", document=prefix("old-")
        )
    async with stand(tmp_path, definition(archive, 2)) as egress:
        await egress.orders.resume("archive")
        await egress.until_state("done")
    assert archive.patients == ["old-4711"]


async def test_a_study_that_is_routed_again_goes_again_when_its_transform_has_changed(
    tmp_path: Path, archive: Archive
) -> None:
    async with stand(tmp_path, definition(archive, 1, a=prefix("old-"))) as egress:
        wanted = egress.keep(make_study(tmp_path, 2, PatientID="4711"))
        await egress.request(wanted, transform="a", document=prefix("old-"))
        await egress.until_state("done")
        before = {row.item: row.version for row in (await made_of(egress)).values()}
        await egress.apply(definition(archive, 2, a=prefix("new-")))
        # Nothing goes by itself, nor by what is told once more of what was decided before.
        await egress.request(wanted, transform="a", document=prefix("old-"))
        await egress.until_state("done")
        assert archive.patients == ["old-4711"] * 2
        again = {"transform": "a", "document": prefix("new-"), "under": 2, "study_version": 2}
        await egress.request(wanted, **again)
        await egress.until_state("done")
        assert sorted(archive.patients) == ["new-4711"] * 2 + ["old-4711"] * 2
        after = {row.item: row.version for row in (await made_of(egress)).values()}
        assert before.keys() == after.keys()
        assert set(before.values()).isdisjoint(after.values())
        # The same again, what came late of before, and a later decision that changes nothing: nothing goes.
        await egress.request(wanted, **again)
        await egress.request(wanted, transform="a", document=prefix("old-"))
        await egress.request(wanted, **(again | {"under": 3}))
        await egress.until_state("done")
        assert {item.attempts for item in await egress.items()} == {2}
    assert len(archive.patients) == 4


async def test_a_destination_s_changed_transform_counts_when_rules_ask_again_and_not_before(
    tmp_path: Path, archive: Archive
) -> None:
    async with stand(tmp_path, definition(archive, 1)) as egress:
        wanted = egress.keep(make_study(tmp_path, 1, PatientID="4711"))
        await egress.request(wanted)
        await egress.until_state("done")
        await egress.apply(definition(archive, 2, prefix("D-")))
        await egress.request(wanted)
        await egress.until_state("done")
        assert archive.patients == ["4711"]
        await egress.request(wanted, under=2, study_version=2)
        await egress.until_state("done")
        assert archive.patients == ["4711", "D-4711"]
        # Taken away again: it goes as it is kept, and nothing says otherwise of it.
        await egress.apply(definition(archive, 3))
        await egress.request(wanted, under=3, study_version=3)
        await egress.until_state("done")
        assert await made_of(egress) == {}
    assert archive.patients == ["4711", "D-4711", "4711"]


async def test_what_is_in_hand_while_rules_ask_anew_goes_once_more_as_it_is_to_be_now(
    tmp_path: Path, archive: Archive
) -> None:
    archive.goes_on.clear()
    async with stand(tmp_path, definition(archive, 1, a=prefix("old-"))) as egress:
        wanted = egress.keep(make_study(tmp_path, 1, PatientID="4711"))
        # Not complete yet: nothing follows from what arrives but what was asked for meanwhile.
        await egress.request(wanted, transform="a", document=prefix("old-"), closes=False)
        assert await asyncio.to_thread(archive.came.wait, 30)
        await egress.request(wanted, transform="a", document=prefix("new-"), under=2, closes=False)
        archive.goes_on.set()

        async def sent_again() -> bool:
            return len(archive.patients) == 2

        await egress.until(sent_again)
        await egress.request(wanted, transform="a", document=prefix("new-"), under=2)
        await egress.until_state("done")
    assert archive.patients == ["old-4711", "new-4711"]


async def test_a_person_s_retry_has_a_mended_transform_done_and_leaves_what_failed_otherwise(
    tmp_path: Path, archive: Archive
) -> None:
    async with stand(tmp_path, definition(archive, 1, a=REFUSES)) as egress:
        wanted = egress.keep(make_study(tmp_path, 1, PatientID="4711"))
        await egress.request(wanted, transform="a", document=REFUSES)
        row = await egress.until_state("failed")
        assert (await egress.items())[0].status == TRANSFORM
        await egress.apply(definition(archive, 2, a=prefix("mended-")))
        # Applying alone sends nothing: it is failed still.
        assert (await egress.until_state("failed")).id == row.id
        await egress.orders.give(Given("retry", "op"), [row.id])
        await egress.until_state("done")
        # What is told late of what was decided before does not take its place.
        await egress.request(wanted, transform="a", document=REFUSES)
        await egress.until_state("done")
    assert archive.patients == ["mended-4711"]


async def test_what_failed_at_a_transform_is_tried_when_rules_ask_anew(tmp_path: Path, archive: Archive) -> None:
    async with stand(tmp_path, definition(archive, 1, a=REFUSES)) as egress:
        wanted = egress.keep(make_study(tmp_path, 1, PatientID="4711"))
        await egress.request(wanted, transform="a", document=REFUSES)
        await egress.until_state("failed")
        await egress.request(wanted, transform="a", document=prefix("new-"), under=2, study_version=2)
        await egress.until_state("done")
    assert archive.patients == ["new-4711"]


async def test_a_transform_with_words_of_a_later_release_is_parked_and_never_sent_without_it(
    tmp_path: Path, archive: Archive
) -> None:
    async with stand(tmp_path, definition(archive, 1, a=prefix("now-"))) as egress:
        wanted = egress.keep(make_study(tmp_path, 1, PatientID="4711"))
        await egress.request(wanted, transform="a", document={"scramble": ["PatientID"]})
        row = await egress.until_state("failed")
        [item] = await egress.items()
        assert "this release can't do what it said when it was decided" in item.reason
        assert archive.patients == []
        await egress.orders.give(Given("retry", "op"), [row.id])
        await egress.until_state("done")
    assert archive.patients == ["now-4711"]
