"""What one destination's instances become before they are on its shelf, and what they were."""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Protocol

from libs.messaging.listen import DATABASE_AWAY
from libs.telemetry import log
from services.egress.calling import Ending
from services.egress.outcome import TRANSFORM, Outcome, Verdict
from services.egress.parcel import Parcel
from services.egress.transforming import Owner, Transforming, Unprepared
from services.egress.transforms.engine import Step

_log = log.get(__name__)


class Then(Protocol):
    """What follows for an instance; called in the event loop."""

    def ready(self, parcel: Parcel) -> None:
        """Send it."""
        ...

    def told(self, parcel: Parcel, outcome: Outcome) -> None:
        """Write down what became of it."""
        ...

    def back(self, parcel: Parcel, ending: Ending | None = None) -> None:
        """Put it into nobody's hand: it is not its fault. What ended the attempt lets the destination rest."""
        ...


class Preparation:
    """Instances that are being transformed for one destination. From one event loop only, but for `original`.

    Parameters
    ----------
    key
        Of the destination.
    transforming
        Does it.
    tenant_of
        Tells whose an instance is.
    then
        What follows.
    """

    def __init__(
        self, key: str, transforming: Transforming | None, tenant_of: Callable[[Parcel], str], then: Then
    ) -> None:
        self._key = key
        self._transforming = transforming
        self._tenant_of = tenant_of
        self._then = then
        self._under_way: dict[int, Parcel] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._made: dict[int, tuple[Parcel, Parcel]] = {}

    def __len__(self) -> int:
        return len(self._under_way)

    def begin(self, parcels: Iterable[Parcel]) -> list[Parcel]:
        """Have those transformed that must be; give the others, which may go as they are."""
        free = []
        for parcel in parcels:
            transforming = self._transforming
            steps: list[Step] | str = [] if transforming is None else transforming.steps(self._key, parcel)
            if transforming is None and parcel.transform:
                steps = "nothing is transformed here"
            if isinstance(steps, str):
                self._then.told(parcel, Outcome(parcel.item, Verdict.UNFIT, TRANSFORM, f"It is not sent: {steps}."))
            elif transforming is not None and (steps or parcel.made):
                self._under_way[parcel.item] = parcel
                task = asyncio.create_task(self._prepare(transforming, parcel, steps))
                self._tasks.add(task)
                task.add_done_callback(partial(self._ended, parcel))
            else:
                free.append(parcel)
        return free

    def remove(self, which: Callable[[Parcel], bool] = lambda _parcel: True) -> list[Parcel]:
        """Take those away that are meant, all if none are; what is made of them meanwhile goes nowhere."""
        taken = [parcel for parcel in self._under_way.values() if which(parcel)]
        for parcel in taken:
            del self._under_way[parcel.item]
        return taken

    def original(self, parcel: Parcel) -> Parcel:
        """Give an instance as it is kept; from any thread."""
        known = self._made.get(parcel.item)
        return known[0] if known is not None and known[1] is parcel else parcel

    def forget(self, items: Iterable[int]) -> None:
        """Remove what was made of items that are out of hand."""
        for item in items:
            known = self._made.pop(item, None)
            if known is not None and self._transforming is not None:
                self._transforming.discard(known[1])

    async def stop(self) -> None:
        """End what is under way."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _prepare(self, transforming: Transforming, parcel: Parcel, steps: Sequence[Step]) -> None:
        try:
            made = await transforming.prepare(parcel, Owner(self._tenant_of(parcel), self._key), steps)
        except Unprepared as error:
            if self._under_way.get(parcel.item) is parcel:
                del self._under_way[parcel.item]
                if error.outcome is None:
                    _log.warning(
                        "an instance can't be read to be transformed", destination=self._key, reason=str(error)
                    )
                    self._then.back(parcel, Ending("store-away", str(error)))
                else:
                    self._then.told(parcel, error.outcome)
            return
        except DATABASE_AWAY:
            _log.exception("what was transformed can't be written down, trying again", destination=self._key)
            self._give_back(parcel)
            return
        if self._under_way.get(parcel.item) is not parcel:
            transforming.discard(made)
            return
        del self._under_way[parcel.item]
        self._made[parcel.item] = parcel, made
        self._then.ready(made)

    def _give_back(self, parcel: Parcel) -> None:
        if self._under_way.get(parcel.item) is parcel:
            del self._under_way[parcel.item]
            self._then.back(parcel)

    def _ended(self, parcel: Parcel, task: "asyncio.Task[None]") -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            _log.error("a transform broke off inside; its instance is tried again, a few times", exc_info=error)
            if self._under_way.pop(parcel.item, None) is not None:
                # Told of this instance alone: it must hold up no other.
                reason = f"It is not sent as it is: its transform broke off inside Kivuko ({type(error).__name__})."
                self._then.told(parcel, Outcome(parcel.item, Verdict.REFUSED, TRANSFORM, f"{reason} Report it."))
