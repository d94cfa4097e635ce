"""An order as it follows from all changes that name it, whatever the order in which they came. Pure."""

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Final, Literal, TypeAlias

from services.worklist.attributes import Attributes
from services.worklist.change import Action, Number, OrderChange, StepChange
from services.worklist.patient import SHARED, Place, Said, place, with_said

State: TypeAlias = Literal["scheduled", "arrived", "started", "completed", "discontinued", "cancelled"]
#: A step in one of these states is shown on worklists.
OPEN: Final[tuple[State, ...]] = ("scheduled", "arrived", "started")
_AFTER: Final[dict[Action, State]] = {
    "schedule": "scheduled",
    "arrive": "arrived",
    "start": "started",
    "complete": "completed",
    "discontinue": "discontinued",
    "cancel": "cancelled",
}
_ENDING: Final[tuple[Action, ...]] = ("complete", "discontinue", "cancel")
#: The state of an order is the first of these that one of its steps is in.
_WEIGHT: Final[tuple[State, ...]] = ("started", "arrived", "scheduled", "completed", "discontinued", "cancelled")


@dataclass(frozen=True)
class Step:
    """A scheduled procedure step.

    Attributes
    ----------
    step_id
        Empty where no change has named it.
    removed
        A newer schedule leaves it out: it is cancelled, and only a change that names it brings it back.
    """

    step_id: str
    state: State = "scheduled"
    attributes: Attributes = field(default_factory=dict)
    removed: bool = False


@dataclass(frozen=True)
class Order:
    """What an order is.

    Attributes
    ----------
    site, patient, placer, filler, accession
        The newest that was said.
    first
        The change with the earliest stamp: what is minted is made of its number.
    attributes
        All that is neither the patient's nor a step's.
    said
        What each change says of the patient that no other order shares, with the patient that it names.
    """

    site: str
    patient: Number
    placer: Number | None
    filler: Number | None
    accession: Number | None
    first: OrderChange
    attributes: Attributes
    said: tuple[tuple[Place, Number, Attributes], ...]
    steps: tuple[Step, ...]

    @property
    def state(self) -> State:
        """The state of the whole."""
        states = {step.state for step in self.steps}
        return next(state for state in _WEIGHT if state in states)

    def own(self, same: Collection[Number]) -> Said:
        """Give what it says of its patient for itself; `same`: all identifiers of that patient."""
        known: Said = {}
        for at, patient, attributes in self.said:
            if patient in same:
                known = with_said(known, at, attributes)
        return known


def fold(changes: Iterable[OrderChange]) -> Order:
    """Make the order of its changes. Repeated ones count once.

    Parameters
    ----------
    changes
        One at least.
    """
    placed = sorted({place(change.origin): change for change in changes}.items(), key=lambda one: one[0])
    ordered = [change for _, change in placed]
    last = ordered[-1]
    attributes: dict[str, tuple[str | Attributes, ...]] = {}
    steps: dict[str, Step] = {}
    for _, message in groupby(ordered, key=lambda change: (change.origin.stamp, *_message(change))):
        of_message = list(message)
        for change in of_message:
            attributes.update(change.about_order)
            steps = _changed(steps, change)
        steps = _without_left_out(steps, of_message)
    return Order(
        site=last.site,
        patient=last.patient,
        placer=_newest([change.placer for change in ordered]),
        filler=_newest([change.filler for change in ordered]),
        accession=_newest([change.accession for change in ordered]),
        first=ordered[0],
        attributes=attributes,
        said=tuple((at, change.patient, _unshared(change.about_patient)) for at, change in placed),
        steps=tuple(steps[step_id] for step_id in sorted(steps)),
    )


def _message(change: OrderChange) -> tuple[str, str]:
    return change.origin.source, change.origin.message


def _newest(numbers: Sequence[Number | None]) -> Number | None:
    return next((number for number in reversed(numbers) if number is not None), None)


def _unshared(attributes: Attributes) -> Attributes:
    return {keyword: values for keyword, values in attributes.items() if keyword not in SHARED}


def _changed(steps: dict[str, Step], change: OrderChange) -> dict[str, Step]:
    steps = dict(steps)
    named: dict[str, Attributes] = {}
    for said in change.steps:
        for step_id in _meant(steps, said):
            named[step_id] = {**named.get(step_id, {}), **said.attributes}
    if not named:
        named = {step_id: {} for step_id, step in steps.items() if not step.removed} or {"": {}}
    for step_id, attributes in named.items():
        before = steps.get(step_id, Step(step_id))
        steps[step_id] = replace(
            before,
            attributes={**before.attributes, **attributes},
            state=_AFTER.get(change.action, "scheduled" if before.removed else before.state),
            removed=before.removed and change.action in _ENDING,
        )
    return steps


def _meant(steps: dict[str, Step], said: StepChange) -> list[str]:
    """Tell which steps a change means; the only one that had no identifier so far gets one."""
    live = [step_id for step_id, step in steps.items() if not step.removed]
    if said.step_id in steps:
        return [said.step_id]
    if not said.step_id:
        return live or [""]
    if live == [""]:
        steps[said.step_id] = replace(steps.pop(""), step_id=said.step_id)
    return [said.step_id]


def _without_left_out(steps: dict[str, Step], message: Sequence[OrderChange]) -> dict[str, Step]:
    """Take the steps out that a message leaves out, which says what is scheduled and names every step."""
    if any(change.action != "schedule" for change in message):
        return steps
    named = {said.step_id for change in message for said in change.steps}
    if not named or "" in named:
        return steps
    return {
        step_id: step if step_id in named or step.removed else replace(step, removed=True, state="cancelled")
        for step_id, step in steps.items()
    }
