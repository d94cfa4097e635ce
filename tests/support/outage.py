"""An object store that goes away while modalities send, and comes back."""

import random
import threading
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Literal

from tests.support.kivuko import System
from tests.support.process import wait_until
from tests.support.seaweedfs import SeaweedFS
from tests.support.stored import NETWORK
from tests.support.storm import Modality, lost, modalities, orphans, settled

_SENDERS = 3
_SUCCESSES = 5


def store_away(
    system: System,
    ack: Literal["spool", "object-store"],
    s3: SeaweedFS,
    objects: str,
    choice: random.Random,
    least_s: float,
) -> list[str]:
    """Let the store go away for as long as it takes to see what happens, at least `least_s`; say what is wrong.

    With ack=spool every instance must go on to be answered with success. With ack=object-store none may be, and
    every sender must be told A700. Afterwards all must be well by itself.
    """
    system.start()
    system.apply(NETWORK)
    stations = modalities(system, _SENDERS, choice, pace=0.1)
    for station in stations:
        station.start()
    _more(stations, _SUCCESSES)
    s3.stop()
    gone = datetime.now(UTC)
    threading.Event().wait(least_s)  # how long it is away is what is tried here
    if ack == "spool":
        _more(stations, _SUCCESSES)
    else:
        for station in stations:
            wait_until(lambda station=station: station.refusals["0xA700"] > 0, "A700 for every sender", 120)  # type: ignore[misc]
    back = datetime.now(UTC)
    s3.start()
    _more(stations, _SUCCESSES)
    for station in stations:
        station.stop()
    settled(system, stations)
    during = [each for station in stations for each in station.acknowledged if gone < each.at < back]
    found = [*lost(system, stations, objects), *orphans(system, objects)]
    if ack == "object-store":
        found += [f"{each.sop_uid} was answered with success while there was no store" for each in during]
    else:
        found += [f"refused: {what}, {count} times" for station in stations for what, count in station.refusals.items()]
    return found


def _more(stations: Sequence[Modality], count: int) -> None:
    """Wait until each station has had so many more successes."""
    for station in stations:
        wanted = len(station.acknowledged) + count
        wait_until(lambda station=station, wanted=wanted: len(station.acknowledged) >= wanted, "successes", 120)  # type: ignore[misc]
