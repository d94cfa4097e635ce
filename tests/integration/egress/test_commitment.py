"""Where a destination asks for storage commitment, done means committed."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from contracts.commitment import CommitmentReported
from tests.integration.egress.keeper import Keeper, Request, keeper
from tests.integration.egress.stand import QUICK, Stand, archive, stand
from tests.support.synthetic import CT_IMAGE_STORAGE, make_study

pytestmark = pytest.mark.integration
COMMIT = {"confirm": "commit"}


async def test_committed_on_the_same_association(tmp_path: Path) -> None:
    with keeper() as peer:
        async with stand(tmp_path, archive(peer.port, destination=COMMIT)) as egress:
            await egress.request(egress.keep(make_study(tmp_path, 3)))
            row = await egress.until_state("done")
            items = await egress.items()
            (told,) = await egress.events("commitment.reported")
            assert len(await egress.events("delivery.completed")) == 1
    assert all(each.committed_at is not None and each.sent_at <= each.committed_at for each in items)
    assert row.reason is None
    assert row.confirm_at is None
    (request,) = peer.requests
    assert set(request.instances) == set(peer.stored)
    assert (told["transaction_uid"], told["node"]) == (request.transaction_uid, "PACS")
    assert peer.answers == [0]
