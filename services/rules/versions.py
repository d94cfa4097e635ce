"""Decides on versions of studies, in the caller's transaction."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncSession

from contracts.definition import Rule
from contracts.fact import Attributes
from contracts.routing import Trigger
from contracts.study import StudyCompleted
from libs.clock import Clock
from libs.definition.inputs import Inputs
from services.rules import action_rows, chronicle, discarding, history, ordered, procedure_rows, repository, route
from services.rules.action import Emphasis, Tag, emphasis, emphasized, tags
from services.rules.actions import Actions
from services.rules.glance import Glance
from services.rules.hold import holding
from services.rules.in_force import InForce
from services.rules.occasion import Occasion, Step, occasions
from services.rules.plan import Known, Requested, gathered, united, wishes, within_sites, without_loops
from services.rules.reading import CARRIED, Reading, known, named, read_by, shown, with_tags
from services.rules.record import recorded
from services.rules.repository import Completion, Study
from services.rules.teller import Teller


class Versions:
    """Decides on whole studies: when they are complete or amended, when it is time, and when a step of them is done."""

    def __init__(self, reading: Reading, teller: Teller, actions: Actions, clock: Clock) -> None:
        self._reading = reading
        self._teller = teller
        self._actions = actions
        self._clock = clock

    async def decide(  # noqa: C901, PLR0915 - its steps belong to one transaction, in this order
        self,
        tx: AsyncSession,
        study: Study,
        completion: Completion,
        chosen: Sequence[Known],
        in_force: InForce,
        timed: Collection[str] | None = None,
        step: Step | None = None,
        *,
        late_order: bool = False,
    ) -> bool:
        """Decide on a version of a study; give whether any rule matched. Raises StoreUnavailableError.

        Parameters
        ----------
        tx, study, completion, chosen, in_force
            The version, its instances, and the rules.
        timed
            The rules that the clock triggers now.
        step
            The procedure step that triggers rules now.
        late_order
            Whether its order triggers rules now. None of the three: the version is decided as such.
        """
        said = completion.completed
        # What was put aside or discarded when it came goes nowhere by what else is decided.
        free = [one for one in chosen if one.aside is None]
        afterwards = timed is not None or step is not None or late_order
        asked = await self._asked(tx, study, said.attributes, in_force)
        if late_order or step is not None:
            looks = [Occasion("order" if late_order else "procedure", tuple(free), step)]
        else:
            looks = await self._occasions(tx, study, said.version, free, in_force, timed=timed is not None, asked=asked)
        # All that the object store is needed for comes before anything is written.
        attributes = [await self._reading.looked_at(tx, study, said, look, in_force) for look in looks]
        tagged = await action_rows.tags_of(tx, study.id) if in_force.needs.tags else []
        inputs = replace(in_force.rules.circumstances(said.source, study.tenant, self._clock()), order=asked)
        held = holding(said.last_arrival, in_force.timezone)
        glances: dict[Trigger, Glance] = {}
        going: list[Requested] = []
        more = Emphasis()
        for place, look in enumerate(looks):
            seen, unread = attributes[place]
            glance = glances.get(look.trigger)
            if glance is None:
                glance = glances[look.trigger] = Glance(*await known(tx, study, look.trigger, in_force))
            if look.trigger in in_force.needs.tags:
                # A series is looked at in the same decision as its study.
                now_tagged = [*tagged, *_set_by(glances, in_force)]
                seen = {name: with_tags(each, now_tagged, look.trigger) for name, each in seen.items()}
                attributes[place] = seen, unread
            evaluation = in_force.rules.evaluate(
                look.trigger,
                shown(self._around(look, inputs, study, in_force), seen, glance.unhealthy),
                lifted=glance.lifted | _not_yet(in_force.needs.timers, timed or ()),
                unhealthy=glance.unhealthy,
            )
            matches = [match for match in evaluation.matches if timed is None or match.rule in timed]
            stopped = {one.id for each in glances.values() for _, put in each.ended.values() for one in put}
            left = [one for one in look.instances if one.id not in stopped]
            wanted, notes = wishes(matches, held)
            if look.trigger == "series":
                wanted = emphasized(wanted, emphasis(matches, held))
            else:
                more = more.and_(emphasis(matches, held))
            now_going, left_out = without_loops(left, wanted, in_force.rules.returns)
            now_going, withheld = within_sites(now_going, in_force.rules.may_have)
            going += now_going
            glance.take(matches, look, {name: read_by(each, in_force, look.trigger) for name, each in seen.items()})
            glance.tally.add(
                matches,
                evaluation.rules_evaluated,
                problems=(*unread, *evaluation.errors, *notes),
                notes=(*left_out, *withheld),
                count=len(look.instances) or len(chosen),
            )
        going = gathered(going)
        before = await repository.requested_of(tx, chosen)
        everything, changed = united(before, going)
        everything = [replace(one, wish=more.of(one.wish)) for one in everything]
        had = await repository.requested_before(tx, study, said.version)
        await repository.keep_requests(tx, going, in_force.version)
        matched = [match for glance in glances.values() for match in glance.matches]
        unmatched = False
        if not afterwards:
            await repository.close_completion(tx, study, completion, in_force.version)
            await self._actions.set_timers(tx, study, in_force.needs.timers, said.version)
            unmatched = await self._actions.is_unmatched(tx, study, chosen, matched, goes=bool(everything))
        elif everything and study.unmatched_at is not None:
            await action_rows.set_unmatched(tx, study, None)
        await self._actions.tag(
            tx,
            study,
            _set_by(glances, in_force),
            in_force.version,
        )
        says_changed = ("study", "timer", "procedure", "order") if afterwards else ("study",)
        for glance in glances.values():
            for end, put in glance.ended.values():
                await self._actions.put_aside(tx, study, end, put, said.source, in_force.version, version=said.version)
        ended = [(end.rule, put) for glance in glances.values() for end, put in glance.ended.values()]
        discarded = await discarding.why(tx, study, chosen, ended, in_force) if not everything else None
        for trigger, glance in glances.items():
            kept = recorded(inputs, glance.seen, unhealthy=glance.unhealthy, lifted=glance.lifted)
            decided = glance.tally.decided(
                "study",
                study.study_instance_uid,
                in_force.version,
                said.source,
                said.version,
                everything,
                occasion=trigger,
                inputs_hash=kept.hash,
                unhealthy=glance.unhealthy if trigger in in_force.needs.health else None,
                unmatched=unmatched and trigger == "study",
                discarded=discarded if trigger == "study" else None,
                more_problems=changed if trigger in says_changed else (),
            )
            more_problems = changed if trigger in says_changed else ()
            await self._teller.say(tx, study, decided, (*glance.tally.problems, *more_problems), kept.document)
        # What asks afterwards asks for some destinations only: what the others get is closed already.
        named = {one.destination for one in going}
        told = everything if not afterwards or more.rules else [one for one in everything if one.destination in named]
        await self._teller.request(tx, study, told, in_force, closing=said.version, had=had)
        await self._record(tx, study, said, chosen, in_force, attributes, glances, before, everything, asked)
        return bool(matched)

    async def _asked(
        self, tx: AsyncSession, study: Study, attributes: Attributes, in_force: InForce
    ) -> Mapping[str, str]:
        """Give what was ordered, if any rule asks for it."""
        if not in_force.needs.orders:
            return {}
        return await ordered.of_study(tx, study.tenant, study.study_instance_uid, attributes)

    async def _occasions(
        self,
        tx: AsyncSession,
        study: Study,
        version: int,
        free: Sequence[Known],
        in_force: InForce,
        *,
        timed: bool,
        asked: Mapping[str, str],
    ) -> list[Occasion]:
        triggers = in_force.needs.triggers
        steps = await procedure_rows.steps_of(tx, study) if "procedure" in triggers else []
        return occasions(triggers, version, free, timed=timed, steps=steps, ordered=bool(asked))

    def _around(self, look: Occasion, inputs: Inputs, study: Study, in_force: InForce) -> Inputs:
        """Give what surrounds an occasion: of a procedure step, that step and the modality that reported it."""
        if look.step is None:
            return inputs
        if look.step.source is not None:
            surrounding = in_force.rules.circumstances(look.step.source, study.tenant, inputs.now)
            inputs = replace(surrounding, order=inputs.order)
        return replace(inputs, procedure=look.step.facts)

    async def _record(
        self,
        tx: AsyncSession,
        study: Study,
        said: StudyCompleted,
        chosen: Sequence[Known],
        in_force: InForce,
        looked_at: Sequence[tuple[Mapping[str, Attributes], list[str]]],
        glances: Mapping[Trigger, Glance],
        before: Sequence[Requested],
        everything: Sequence[Requested],
        order: Mapping[str, str],
    ) -> None:
        """Record what the rules saw and where it goes, for people who ask why, and for trying other rules on it."""
        if "study" not in glances:
            # What the clock or a procedure step asks for is no answer to what arrived.
            return
        earlier = await history.record_of(tx, study.id) if said.version > 1 else None
        beyond = {*in_force.rules.attributes("instance"), *in_force.rules.attributes("series")} - CARRIED - {"Sites"}
        more, _ = await self._reading.more(chosen, beyond)
        now = self._clock()
        looked_for = {*beyond, *in_force.rules.attributes("study"), *in_force.rules.attributes("amended")}
        health = in_force.needs.health
        apart = in_force.needs.apart
        attributes = {key: value for seen, _ in looked_at for key, value in seen.get("study", {}).items()}
        made = chronicle.version(
            *(said.version, now, in_force.version, said.last_arrival, said.source, attributes, chosen),
            named=lambda one: named(study, one),
            more=more,
            looked_for=looked_for - CARRIED,
            before=earlier,
            unhealthy=frozenset().union(*(each.unhealthy for each in glances.values())) if health else None,
            # Of any trigger: what a person released when it came counts no more either.
            lifted=await action_rows.lifted(tx, study) if in_force.needs.aside else frozenset(),
            order=order,
        )
        routes = route.routed(
            {} if earlier is None else earlier.routes,
            [one for one in everything if any(rule not in apart for rule in one.wish.rules)],
            asked=[(one.instance.id, one.destination) for one in before],
            arrivals=route.arrival,
            is_new=lambda one: chronicle.since(one.received_at, made.number, earlier) == made.number,
            decided_at=now,
        )
        await history.keep(tx, study.id, now, chronicle.added(earlier, made, routes))


def _set_by(glances: Mapping[Trigger, Glance], in_force: InForce) -> list[Tag]:
    """Give the tags that a decision sets so far."""
    definition = in_force.rules.definition
    return [tag for trigger, glance in glances.items() for tag in tags(glance.matches, trigger, definition)]


def _not_yet(timers: Mapping[str, Rule], timed: Collection[str]) -> frozenset[str]:
    """Name the timers that come later than those that look now: they end nothing before their time."""
    waits = {name: rule.after or rule.every or 0 for name, rule in timers.items()}
    latest = max((waits[name] for name in timed), default=None)
    return frozenset(name for name, wait in waits.items() if latest is not None and wait > latest)
