"""Which triggers a version of a study pulls, and what each of them looks at. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from contracts.fact import Source
from contracts.routing import Trigger
from services.rules.plan import Known


@dataclass(frozen=True)
class Step:
    """A procedure step that a modality has completed.

    Attributes
    ----------
    facts
        What conditions read of it: `procedure.station` and the like.
    source
        The modality; None if that was not said.
    """

    facts: Mapping[str, str]
    source: Source | None


@dataclass(frozen=True)
class Occasion:
    """Rules of one trigger look at one thing.

    Attributes
    ----------
    trigger
        Which rules.
    instances
        What they may deliver.
    step
        The step that the trigger `procedure` is about.
    """

    trigger: Trigger
    instances: tuple[Known, ...]
    step: Step | None = None


def occasions(
    triggers: Collection[Trigger],
    version: int,
    instances: Sequence[Known],
    *,
    timed: bool = False,
    steps: Sequence[Step] = (),
    ordered: bool = False,
) -> list[Occasion]:
    """Give what is to be looked at, in this order.

    A series is known to be complete when its study is: nothing that arrives says so before. A study is looked at in
    every version, whether or not a rule asks, so that there is a decision; as an amended one in all but the first.
    The steps that were done for it are looked at with each version: what they ask for is to have what came since, too.

    Parameters
    ----------
    triggers
        Those that any rule has.
    version, instances
        The version of the study.
    timed
        Whether the clock made rules look, and not the version.
    steps
        Completed procedure steps of the study.
    ordered
        Whether what was ordered is known.
    """
    if timed:
        return [Occasion("timer", tuple(instances))]
    found = []
    if "series" in triggers:
        uids = sorted({one.series_instance_uid for one in instances})
        found += [Occasion("series", tuple(one for one in instances if one.series_instance_uid == uid)) for uid in uids]
    found.append(Occasion("study", tuple(instances)))
    if "amended" in triggers and version > 1:
        found.append(Occasion("amended", tuple(instances)))
    if "procedure" in triggers:
        found += [Occasion("procedure", tuple(instances), step) for step in steps]
    if "order" in triggers and ordered:
        found.append(Occasion("order", tuple(instances)))
    return found
