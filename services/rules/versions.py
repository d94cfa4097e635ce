"""Decides on versions of studies, in the caller's transaction."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from sqlalchemy.ext.asyncio import AsyncSession

from libs.clock import Clock
from services.rules import action_rows, chronicle, discarding, history, ordered, procedure_rows, repository, route
from services.rules.actions import Actions
from services.rules.glance import Glance
from services.rules.in_force import InForce
from services.rules.occasion import Occasion, Step, occasions
from services.rules.plan import Known, Requested, gathered, united
from services.rules.reading import CARRIED, Reading, known, named, with_tags
from services.rules.record import recorded
from services.rules.repository import Completion, Study
from services.rules.sight import Case, Sight, evaluate
from services.rules.teller import Teller


class Versions:
    """Decides on whole studies: when they are complete or amended, and when it is time."""

    def __init__(self, reading: Reading, teller: Teller, actions: Actions, clock: Clock) -> None:
        self._reading = reading
        self._teller = teller
        self._actions = actions
        self._clock = clock

    async def decide(
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
        case = Case(study, completion, chosen, in_force, timed, step, late_order)
        sight = await self._look(tx, case)
        going = gathered(sight.going)
        before = await repository.requested_of(tx, chosen)
        everything, changed = united(before, going)
        everything = [replace(one, wish=sight.more.of(one.wish)) for one in everything]
        had = await repository.requested_before(tx, study, case.said.version)
        await repository.keep_requests(tx, going, in_force.version)
        unmatched = await self._close(tx, case, sight, goes=bool(everything))
        await self._act(tx, case, sight)
        await self._say(tx, case, sight, everything, changed, unmatched=unmatched)
        # What asks afterwards asks for some destinations only: what the others get is closed already.
        asked = {one.destination for one in going}
        all_of_it = not case.afterwards or sight.more.rules
        told = everything if all_of_it else [one for one in everything if one.destination in asked]
        await self._teller.request(tx, study, told, in_force, closing=case.said.version, had=had)
        await self._record(tx, case, sight, before, everything)
        return bool(sight.matches)

    async def _look(self, tx: AsyncSession, case: Case) -> Sight:
        """Have the rules look, on one occasion after the other; nothing is written."""
        needs = case.in_force.needs
        order: Mapping[str, str] = {}
        if needs.orders:
            study = case.study
            uid, site = study.study_instance_uid, case.said.source.site
            order = await ordered.of_study(tx, study.tenant, uid, site, case.said.attributes)
        looks = await self._occasions(tx, case, ordered=bool(order))
        # All that the object store is needed for comes before anything is written.
        attributes = [await self._reading.looked_at(tx, case.study, case.said, look, case.in_force) for look in looks]
        tagged = await action_rows.tags_of(tx, case.study.id) if needs.tags else []
        inputs = case.in_force.rules.circumstances(case.said.source, case.study.tenant, self._clock())
        sight = Sight(inputs.having(order=order), attributes)
        for place, look in enumerate(looks):
            if look.trigger not in sight.glances:
                sight.glances[look.trigger] = Glance(*await known(tx, case.study, look.trigger, case.in_force))
            if look.trigger in needs.tags:
                # A series is looked at in the same decision as its study.
                now_tagged = [*tagged, *sight.tags(case.in_force)]
                seen, unread = attributes[place]
                tagged_too = {name: with_tags(each, now_tagged, look.trigger) for name, each in seen.items()}
                attributes[place] = tagged_too, unread
            evaluate(case, sight, look, *attributes[place])
        return sight

    async def _occasions(self, tx: AsyncSession, case: Case, *, ordered: bool) -> list[Occasion]:
        """Give what the rules look at."""
        if case.late_order:
            return [Occasion("order", tuple(case.free))]
        if case.step is not None:
            return [Occasion("procedure", tuple(case.free), case.step)]
        triggers = case.in_force.needs.triggers
        steps = await procedure_rows.steps_of(tx, case.study) if "procedure" in triggers else []
        timed = case.timed is not None
        return occasions(triggers, case.said.version, case.free, timed=timed, steps=steps, ordered=ordered)

    async def _close(self, tx: AsyncSession, case: Case, sight: Sight, *, goes: bool) -> bool:
        """Note that the version is decided; give whether no rule wants the study."""
        study = case.study
        if not case.afterwards:
            await repository.close_completion(tx, study, case.completion, case.in_force.version)
            await self._actions.set_timers(tx, study, case.in_force.needs.timers, case.said.version)
            return await self._actions.is_unmatched(tx, study, case.chosen, sight.matches, goes=goes)
        if goes and study.unmatched_at is not None:
            await action_rows.set_unmatched(tx, study, None)
        return False

    async def _act(self, tx: AsyncSession, case: Case, sight: Sight) -> None:
        """Set tags, and put aside what is put aside."""
        version = case.in_force.version
        await self._actions.tag(tx, case.study, sight.tags(case.in_force), version)
        for end, put in sight.ends:
            await self._actions.put_aside(
                tx, case.study, end, put, case.said.source, version, version=case.said.version
            )

    async def _say(
        self,
        tx: AsyncSession,
        case: Case,
        sight: Sight,
        everything: Sequence[Requested],
        changed: Sequence[str],
        *,
        unmatched: bool,
    ) -> None:
        """Tell what was decided, trigger by trigger."""
        in_force, said = case.in_force, case.said
        says_changed = ("study", "timer", "procedure", "order") if case.afterwards else ("study",)
        ended = [(end.rule, put) for end, put in sight.ends]
        discarded = None if everything else await discarding.why(tx, case.study, case.chosen, ended, in_force)
        for trigger, glance in sight.glances.items():
            kept = recorded(sight.inputs, glance.seen, unhealthy=glance.unhealthy, lifted=glance.lifted)
            more_problems = changed if trigger in says_changed else ()
            decided = glance.tally.decided(
                "study",
                case.study.study_instance_uid,
                in_force.version,
                said.source,
                said.version,
                everything,
                occasion=trigger,
                inputs_hash=kept.hash,
                unhealthy=glance.unhealthy if trigger in in_force.needs.health else None,
                unmatched=unmatched and trigger == "study",
                discarded=discarded if trigger == "study" else None,
                more_problems=more_problems,
            )
            await self._teller.say(tx, case.study, decided, (*glance.tally.problems, *more_problems), kept.document)

    async def _record(
        self,
        tx: AsyncSession,
        case: Case,
        sight: Sight,
        before: Sequence[Requested],
        everything: Sequence[Requested],
    ) -> None:
        """Record what the rules saw and where it goes, for people who ask why, and for trying other rules on it."""
        if case.afterwards:
            # What the clock, a step or an order asks for later is no answer to what arrived.
            return
        study, said, in_force = case.study, case.said, case.in_force
        earlier = await history.record_of(tx, study.id) if said.version > 1 else None
        beyond = {*in_force.rules.attributes("instance"), *in_force.rules.attributes("series")} - CARRIED - {"Sites"}
        more, _ = await self._reading.more(case.chosen, beyond)
        now = self._clock()
        looked_for = {*beyond, *in_force.rules.attributes("study"), *in_force.rules.attributes("amended")}
        asked = in_force.needs.health & sight.glances.keys()
        apart = in_force.needs.apart
        attributes = {key: value for seen, _ in sight.attributes for key, value in seen.get("study", {}).items()}
        made = chronicle.version(
            *(said.version, now, in_force.version, said.last_arrival, said.source, attributes, case.chosen),
            named=lambda one: named(study, one),
            more=more,
            looked_for=looked_for - CARRIED,
            before=earlier,
            unhealthy=frozenset().union(*(sight.glances[one].unhealthy for one in asked)) if asked else None,
            # Of any trigger: what a person released when it came counts no more either.
            lifted=await action_rows.lifted(tx, study) if in_force.needs.aside else frozenset(),
            order=sight.inputs.order,
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
