"""What the rules see of a version of a study, and what they want done with it. Pure."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from contracts.definition import Rule
from contracts.fact import Attributes
from contracts.routing import Trigger
from contracts.study import StudyCompleted
from libs.definition.inputs import Inputs
from libs.definition.ruleset import Match
from services.rules.action import Emphasis, Tag, emphasis, emphasized, tags
from services.rules.glance import Glance
from services.rules.hold import holding
from services.rules.in_force import InForce
from services.rules.occasion import Occasion, Step
from services.rules.plan import Known, Requested, wishes, within_sites, without_loops
from services.rules.reading import read_by, shown
from services.rules.repository import Completion, Study


@dataclass(frozen=True)
class Case:
    """What is decided on: a version of a study, its instances, the rules, and what triggers some of them afterwards.

    Attributes
    ----------
    timed
        Rules that the clock triggers now.
    step
        The procedure step that triggers rules now.
    late_order
        Whether its order, which came after it, triggers rules now.
    """

    study: Study
    completion: Completion
    chosen: Sequence[Known]
    in_force: InForce
    timed: Collection[str] | None = None
    step: Step | None = None
    late_order: bool = False

    @property
    def said(self) -> StudyCompleted:
        """What the version says of itself."""
        return self.completion.completed

    @property
    def afterwards(self) -> bool:
        """Whether the version itself was decided before."""
        return self.timed is not None or self.step is not None or self.late_order

    @property
    def free(self) -> list[Known]:
        """The instances that rules decide on: what was put aside or discarded when it came goes nowhere else."""
        return [one for one in self.chosen if one.aside is None]


@dataclass
class Sight:
    """What the rules saw of a case, and what they want.

    Attributes
    ----------
    inputs
        What surrounds it.
    attributes
        What was looked at on each occasion, and what could not be read.
    glances
        By trigger, in the order in which they looked.
    going, more
        What goes where, and what is said of all that goes.
    """

    inputs: Inputs
    attributes: list[tuple[dict[str, Attributes], list[str]]]
    glances: dict[Trigger, Glance] = field(default_factory=dict)
    going: list[Requested] = field(default_factory=list)
    more: Emphasis = field(default_factory=Emphasis)

    @property
    def matches(self) -> list[Match]:
        """Rules that matched, of all triggers."""
        return [match for glance in self.glances.values() for match in glance.matches]

    @property
    def ends(self) -> list[tuple[Match, list[Known]]]:
        """What rules put aside or discarded, and by which match."""
        return [end for glance in self.glances.values() for end in glance.ended.values()]

    def left_of(self, look: Occasion) -> list[Known]:
        """Give the instances of an occasion that no rule has ended so far."""
        stopped = {one.id for _, put in self.ends for one in put}
        return [one for one in look.instances if one.id not in stopped]

    def tags(self, in_force: InForce) -> list[Tag]:
        """Give the tags that are set so far."""
        definition = in_force.rules.definition
        return [tag for trigger, glance in self.glances.items() for tag in tags(glance.matches, trigger, definition)]


def evaluate(case: Case, sight: Sight, look: Occasion, seen: dict[str, Attributes], unread: Sequence[str]) -> None:
    """Have the rules of a trigger look at one thing, and note what they want done with it."""
    in_force = case.in_force
    glance = sight.glances[look.trigger]
    evaluation = in_force.rules.evaluate(
        look.trigger,
        shown(_around(look, sight.inputs, case), seen, glance.unhealthy),
        lifted=glance.lifted | _not_yet(in_force.needs.timers, case.timed or ()),
        unhealthy=glance.unhealthy,
    )
    matches = [match for match in evaluation.matches if case.timed is None or match.rule in case.timed]
    held = holding(case.said.last_arrival, in_force.timezone)
    wanted, notes = wishes(matches, held)
    if look.trigger == "series":
        wanted = emphasized(wanted, emphasis(matches, held))
    else:
        sight.more = sight.more.and_(emphasis(matches, held))
    going, left_out = without_loops(sight.left_of(look), wanted, in_force.rules.returns)
    going, withheld = within_sites(going, in_force.rules.may_have)
    sight.going += going
    glance.take(matches, look, {name: read_by(each, in_force, look.trigger) for name, each in seen.items()})
    glance.tally.add(
        matches,
        evaluation.rules_evaluated,
        problems=(*unread, *evaluation.errors, *notes),
        notes=(*left_out, *withheld),
        count=len(look.instances) or len(case.chosen),
    )


def _around(look: Occasion, inputs: Inputs, case: Case) -> Inputs:
    """Give what surrounds an occasion: of a procedure step, that step and the modality that reported it."""
    if look.step is None:
        return inputs
    if look.step.source is not None:
        surrounding = case.in_force.rules.circumstances(look.step.source, case.study.tenant, inputs.now)
        inputs = surrounding.having(order=inputs.order)
    return inputs.having(procedure=look.step.facts)


def _not_yet(timers: Mapping[str, Rule], timed: Collection[str]) -> frozenset[str]:
    """Name the timers that come later than those that look now: they end nothing before their time."""
    waits = {name: rule.after or rule.every or 0 for name, rule in timers.items()}
    latest = max((waits[name] for name in timed), default=None)
    return frozenset(name for name, wait in waits.items() if latest is not None and wait > latest)
