"""A replica of egress whose sender does not run: what is taken in hand and answered is said by the test."""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from contracts.definition import Snapshot
from contracts.delivery import DeliveryItem
from contracts.manifest import set_hash
from services.egress.calling import Ending
from services.egress.claim import Stretch, ended
from services.egress.outcome import NO_ANSWER, Outcome, Verdict
from services.egress.parcel import Parcel
from services.egress.patience import Patience
from services.egress.settings import EgressSettings
from tests.integration.egress.stand import QUICK, Stand
from tests.support.migrated import migrate
from tests.support.synthetic import CT_IMAGE_STORAGE, EXPLICIT_LITTLE_ENDIAN

SETTINGS = QUICK.model_copy(update={"backoff_first": 100.0, "backoff_cap": 100.0, "refusals": 1})
FINISHED = Ending("finished")
AWAY = Ending("unreachable", "nothing takes connections there")


class Simulated:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.now = datetime(2026, 11, 20, 10, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now


def instances(*numbers: int, study: str = "1.2.3", edition: int = 0) -> list[DeliveryItem]:
    """Describe instances of a study."""
    return [
        DeliveryItem(
            sop_instance_uid=f"{study}.{number}",
            sop_class_uid=CT_IMAGE_STORAGE,
            transfer_syntax_uid=EXPLICIT_LITTLE_ENDIAN,
            content_hash=sha256(f"{study}.{number} {edition}".encode()).hexdigest(),
            object_key=f"{number}",
            size=100,
            received_at=datetime(2026, 11, 20, 9, edition, tzinfo=UTC),
        )
        for number in numbers
    ]


def closing(*numbers: int, version: int = 1) -> dict[str, Any]:
    """Give what closes a delivery with a set of instances."""
    whole = instances(*numbers)
    return {
        "study_version": version,
        "expected": len(whole),
        "expected_hash": set_hash((each.sop_instance_uid, each.content_hash) for each in whole),
    }


class Desk:
    """What a test does in place of the sender."""

    def __init__(self, egress: Stand, settings: EgressSettings, clock: Simulated) -> None:
        self.egress = egress
        self.clock = clock
        self.patience = Patience(egress.database, egress.deliveries, egress.network, settings, clock)
        self._stretches: dict[str, dict[str, Stretch]] = {}

    async def state(self, destination: str, study: str = "1.2.3") -> str | None:
        """Give the state of a delivery; none if there is none."""
        row = await self.egress.delivery(study, destination)
        return None if row is None else str(row.state)

    async def take(self, destination: str, most: int = 64) -> list[Parcel]:
        """Take in hand what is due."""
        stretches = self._stretches.setdefault(destination, {})
        return await self.egress.work.claim(destination, most, stretches)

    async def answer(
        self,
        destination: str,
        parcels: Sequence[Parcel],
        verdict: Verdict = Verdict.SENT,
        ending: Ending | None = FINISHED,
    ) -> None:
        """Have the receiver say the same of all, and write it down."""
        status = {Verdict.SENT: "0000", Verdict.LATER: NO_ANSWER}.get(verdict, "C000")
        told = [(parcel, Outcome(parcel.item, verdict, status, "Because.")) for parcel in parcels]
        stretches = self._stretches.setdefault(destination, {})
        endings = [] if ending is None else [ending]
        over = ended(stretches, told, [], calling=not endings)
        await self.egress.work.settle(destination, told, [], over, endings, going_on=stretches)

    async def send(self, destination: str) -> int:
        """Have everything that is due arrive; give the number of instances."""
        parcels = await self.take(destination)
        await self.answer(destination, parcels)
        return len(parcels)

    async def fail(self, destination: str, seconds: float = 0) -> None:
        """Have every call fail from now on for so long, each probe in its time."""
        until = self.clock.now + timedelta(seconds=seconds)
        while True:
            await self.answer(destination, [], ending=AWAY)
            if self.clock.now >= until:
                return
            self.clock.now += timedelta(seconds=50)


@asynccontextmanager
async def desk(
    folder: Path, snapshot: Snapshot, url: str, *, name: str = "a", clock: Simulated | None = None
) -> AsyncIterator[Desk]:
    """Have a replica until the block ends."""
    clock = clock or Simulated()
    made = Stand(url, folder, snapshot, SETTINGS, name, clock)
    await migrate(made.database, "services.egress")
    await made.network.refresh()
    await made.work.adopt()
    try:
        yield Desk(made, SETTINGS, clock)
    finally:
        await made.database.close()
