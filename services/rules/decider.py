"""Decides on what is known of studies, in the caller's transaction, and says so."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from contracts.delivery import DeliveryCompleted
from contracts.envelope import Event
from contracts.fact import Attributes, Source
from contracts.instances import InstancesStored, QuarantineResolved
from contracts.routing import RoutingDecided, Trigger
from contracts.study import StudyAmended, StudyCompleted, StudyExpired
from libs.clock import Clock
from libs.definition.attributes import STUDY_EXTRAS
from libs.definition.condition import Inputs
from libs.definition.ruleset import Evaluation, Match, RuleSet, RuleSetError
from libs.dicom.header import BASE_KEYWORDS
from libs.messaging.outbox import Outbox
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.storage.objects import ObjectMissingError, ObjectStore, StoreUnavailableError
from libs.telemetry import log
from libs.telemetry.trace import attached, study_context, tracer
from services.rules import action_rows, chronicle, history, metric, repository
from services.rules.action import Emphasis, emphasis, emphasized, ending, tags
from services.rules.actions import Actions, next_look
from services.rules.glance import Glance
from services.rules.headers import HeadersDamagedError, fetch
from services.rules.hold import holding
from services.rules.need import Needs, needs
from services.rules.occasion import Occasion, occasions
from services.rules.plan import (
    NOTHING,
    Known,
    Requested,
    aggregate,
    gathered,
    of_version,
    requests,
    united,
    wishes,
    within_sites,
    without_loops,
)
from services.rules.record import recorded
from services.rules.repository import Completion, Study
from services.rules.tally import Tally

_LOG = log.get(__name__)
_TRACER = tracer(__name__)
#: What events and the instance's row say anyway: no need for the full header.
_CARRIED: Final = frozenset({*BASE_KEYWORDS, "TransferSyntaxUID"})
#: How many studies are looked for at a time when a definition comes into force.
_STUDIES_AT_A_TIME: Final = 100
#: When a rule looks again at a study that waits for a person.
_LOOK_AGAIN: Final = timedelta(minutes=10)
_NONE: Final[frozenset[str]] = frozenset()
#: What the name of a tag follows in conditions.
TAG: Final = "Tags."


@dataclass(frozen=True)
class InForce:
    """The rules in force, the version of the definition that they are from, and what they need."""

    version: int
    rules: RuleSet
    needs: Needs

    @property
    def timezone(self) -> str:
        """Time zone of times that rules name."""
        return self.rules.definition.timezone


class Decider:
    """Decides under the definition in force; without one it keeps what comes until there is one.

    Parameters
    ----------
    network
        The definition in force.
    outbox
        Where decisions and requests go.
    objects
        Where the full headers are.
    clock
        The time in UTC.
    """

    def __init__(self, network: NetworkView, outbox: Outbox, objects: ObjectStore, clock: Clock) -> None:
        self._network = network
        self._outbox = outbox
        self._objects = objects
        self._clock = clock
        self._actions = Actions(outbox, clock)
        self._in_force: InForce | None = None
        self._refused: int | None = None

    def in_force(self) -> InForce | None:
        """Give the rules in force. A definition whose rules this release can't read leaves the ones before in force."""
        snapshot = self._network.current
        if snapshot is None or snapshot.version == self._refused:
            return self._in_force
        if self._in_force is None or self._in_force.version != snapshot.version:
            try:
                rules = RuleSet(snapshot.definition)
                self._in_force = InForce(snapshot.version, rules, needs(rules))
            except RuleSetError as error:
                self._refused = snapshot.version
                _LOG.error(
                    "rules not readable, the ones before stay in force", version=snapshot.version, reason=str(error)
                )
        return self._in_force

    def refused(self) -> int | None:
        """Give the version in force whose rules this release can't read, if that is so."""
        snapshot = self._network.current
        return self._refused if snapshot is not None and snapshot.version == self._refused else None

    async def stored(self, event: Event[InstancesStored], tx: AsyncSession) -> None:
        """Keep the instances of a batch and decide on those that were not known."""
        study = await repository.open_study(tx, event.tenant, event.data.study_instance_uid, event.site)
        if event.data.after_version is not None and event.data.after_version < study.expired_version:
            # A version had them that was delivered before its copy expired.
            _LOG.info("batch of an expired copy not taken", study_uid=study.study_instance_uid, tenant=study.tenant)
            return
        new = await repository.keep_instances(tx, study, event.data)
        await self._decide(tx, study, new)

    async def completed(self, event: Event[StudyCompleted] | Event[StudyAmended], tx: AsyncSession) -> None:
        """Keep a version of a study and decide on it once all its instances are known."""
        study = await repository.open_study(tx, event.tenant, event.data.study_instance_uid, event.site)
        if event.data.version <= study.expired_version:
            return
        await repository.keep_completion(tx, study, event.data)
        await self._decide(tx, study, [])

    async def expired(self, event: Event[StudyExpired], tx: AsyncSession) -> None:
        """Forget the version whose copy is gone; what came again since may now be a whole version by itself."""
        study = await repository.open_study(tx, event.tenant, event.data.study_instance_uid, event.site)
        study = await repository.expire(tx, study, event.data.version, event.data.kept_since)
        if study.unmatched_at is not None:
            await action_rows.set_unmatched(tx, study, None)
        await self._decide(tx, study, [])

    async def resolved(self, event: Event[QuarantineResolved], tx: AsyncSession) -> None:
        """Carry out what a person decided on what rules put aside; other entries of the quarantine are not ours."""
        row = await action_rows.find_aside(tx, event.data.quarantine_id)
        if row is None:
            return
        study = await repository.lock_study(tx, row.study_id)
        row = await action_rows.find_aside(tx, event.data.quarantine_id)
        if row is None or row.state == event.data.resolution:
            return
        await action_rows.resolve_aside(tx, row, event.data.resolution)
        if event.data.resolution == "released":
            # What was released is undecided again.
            await self._decide(tx, replace(study, waiting=True), [])

    async def delivered(self, event: Event[DeliveryCompleted], tx: AsyncSession) -> None:
        """Note which destinations have a study."""
        said = event.data
        study = await repository.open_study(tx, event.tenant, said.study_instance_uid, event.site)
        await action_rows.note_delivered(tx, study, said.destination, said.study_version)

    async def look(self, tx: AsyncSession, study_id: int, timer: int, now: datetime) -> None:
        """Let a rule look at a study because it is time. Raises StoreUnavailableError."""
        study = await repository.lock_study(tx, study_id)
        row = await action_rows.due_timer(tx, timer, now)
        in_force = self.in_force()
        if row is None or in_force is None:
            return
        rule = in_force.needs.timers.get(row.rule)
        completion = await repository.last_decided(tx, study)
        if rule is None or completion is None or completion.completed.version <= study.expired_version:
            await action_rows.move_timer(tx, timer, None)
            return
        if await action_rows.is_aside(tx, study):
            # Once a person has released it, it is decided again, and the clock is set anew.
            await action_rows.move_timer(tx, timer, now + _LOOK_AGAIN)
            return
        said = completion.completed
        known = await repository.instances_of(tx, study)
        chosen = of_version(known, said.instance_count, said.content_hash, said.last_arrival)
        matched = chosen is not None and await self.decide_study(tx, study, completion, chosen, in_force, {rule.name})
        metric.TIMERS.labels(outcome="matched" if matched else "unmatched").inc()
        await action_rows.move_timer(tx, timer, next_look(rule.every, row.last_at, now, matched=matched))

    async def catch_up(self, database: Database) -> None:
        """Decide on the studies that wait for a definition or the object store, each in its own transaction."""
        last = 0
        while self.in_force() is not None:
            async with database.reading() as tx:
                waiting = await repository.waiting_studies(tx, last, _STUDIES_AT_A_TIME)
            if not waiting:
                return
            last = waiting[-1].id
            for row in waiting:
                try:
                    with (
                        attached(study_context(row.tenant, row.study_instance_uid)),
                        _TRACER.start_as_current_span("decide on waiting study"),
                    ):
                        async with database.transaction() as tx:
                            await self._decide(tx, await repository.lock_study(tx, row.id), [])
                except Exception as error:  # noqa: BLE001 - it stays waiting and is tried again; the others must go on
                    _LOG.error(
                        "waiting study not decided", study_uid=row.study_instance_uid, error=type(error).__name__
                    )

    async def _decide(self, tx: AsyncSession, study: Study, new: Sequence[Known]) -> None:
        in_force = self.in_force()
        if in_force is None:
            await repository.set_waiting(tx, study, waiting=True)
            _LOG.warning(
                "study waits for a network definition", study_uid=study.study_instance_uid, tenant=study.tenant
            )
            return
        try:
            await self._decide_under(tx, study, new, in_force)
        except StoreUnavailableError:
            await repository.set_waiting(tx, study, waiting=True)
            _LOG.warning("study waits for the object store", study_uid=study.study_instance_uid, tenant=study.tenant)
        else:
            await repository.set_waiting(tx, study, waiting=False)

    async def _decide_under(self, tx: AsyncSession, study: Study, new: Sequence[Known], in_force: InForce) -> None:
        undecided = await repository.instances_of(tx, study, undecided=True) if study.waiting else new
        if undecided:
            await self._decide_instances(tx, study, undecided, in_force)
        completions = await repository.open_completions(tx, study)
        known = await repository.instances_of(tx, study) if completions else []
        for completion in completions:
            said = completion.completed
            chosen = of_version(known, said.instance_count, said.content_hash, said.last_arrival)
            if chosen is not None:
                await self.decide_study(tx, study, completion, chosen, in_force)
                break

    async def _decide_instances(
        self, tx: AsyncSession, study: Study, undecided: Sequence[Known], in_force: InForce
    ) -> None:
        more, unread = await self._more(undecided, in_force.rules.attributes("instance") - _CARRIED)
        now = self._clock()
        lifted, unhealthy = await self._known(tx, study, "instance", in_force)
        sources = dict.fromkeys(one.source for one in undecided)
        decisions = {source: Tally() for source in sources}
        surrounding = {source: in_force.rules.circumstances(source, study.tenant, now) for source in sources}
        made: list[Requested] = []
        read = sorted(in_force.rules.attributes("instance"))
        # Most instances of a batch say the same where the rules look.
        evaluations: dict[tuple[Source, str], Evaluation] = {}
        looked: dict[Source, list[Attributes]] = {source: [] for source in sources}
        ended: dict[Source, dict[str, tuple[Match, list[Known]]]] = {source: {} for source in sources}
        for one in undecided:
            tally = decisions[one.source]
            inputs = surrounding[one.source]
            attributes = {**more.get(one.id, {}), **_named(study, one), **one.attributes}
            seen = one.source, repr([attributes.get(keyword) for keyword in read])
            evaluation = evaluations.get(seen)
            if evaluation is None:
                evaluation = in_force.rules.evaluate(
                    "instance", replace(inputs, instance=attributes), lifted=lifted, unhealthy=unhealthy
                )
                evaluations[seen] = evaluation
                looked[one.source].append({keyword: attributes[keyword] for keyword in read if keyword in attributes})
            end = ending(evaluation.matches)
            if end is not None:
                ended[one.source].setdefault(end.rule, (end, []))[1].append(one)
            held = holding(one.received_at, in_force.timezone)
            wanted, notes = wishes(evaluation.matches, held)
            wanted = emphasized(wanted, emphasis(evaluation.matches, held))
            going, left_out = without_loops([one], wanted, in_force.rules.returns)
            going, withheld = within_sites(going, in_force.rules.may_have)
            made += going
            problems = (*unread, *evaluation.errors, *notes)
            tally.add(evaluation.matches, evaluation.rules_evaluated, problems=problems, notes=(*left_out, *withheld))
        await repository.keep_requests(tx, made, in_force.version)
        await repository.mark_decided(tx, undecided, in_force.version)
        matched = [match for evaluation in evaluations.values() for match in evaluation.matches]
        await self._actions.tag(tx, study, tags(matched, "instance", in_force.rules.definition), in_force.version)
        for source, tally in decisions.items():
            for end, put in ended[source].values():
                await self._actions.put_aside(tx, study, end, put, source, in_force.version)
            inputs_kept = recorded(
                surrounding[source],
                [{"instance": each} for each in looked[source]],
                unhealthy=unhealthy,
                lifted=lifted,
            )
            decided = tally.decided(
                "instance",
                study.study_instance_uid,
                in_force.version,
                source,
                inputs_hash=inputs_kept.hash,
                unhealthy=unhealthy if "instance" in in_force.needs.health else None,
            )
            await self._say(tx, study, decided, tally.problems, inputs_kept.document)
        await self._request(tx, study, made, in_force.version)

    async def _known(
        self, tx: AsyncSession, study: Study, trigger: Trigger, in_force: InForce
    ) -> tuple[frozenset[str], frozenset[str]]:
        """Name the rules that people have lifted for a study, and destinations that are not healthy, if asked for."""
        lifted = await action_rows.lifted(tx, study) if trigger in in_force.needs.aside else _NONE
        unhealthy = await action_rows.unhealthy(tx) if trigger in in_force.needs.health else _NONE
        return lifted, unhealthy

    async def decide_study(  # noqa: PLR0915 - its steps belong to one transaction, in this order
        self,
        tx: AsyncSession,
        study: Study,
        completion: Completion,
        chosen: Sequence[Known],
        in_force: InForce,
        timed: Collection[str] | None = None,
    ) -> bool:
        """Decide on a version of a study; give whether any rule matched. Raises StoreUnavailableError.

        Parameters
        ----------
        tx, study, completion, chosen, in_force
            The version, its instances, and the rules.
        timed
            The rules that the clock triggers now; None: the version is decided as such.
        """
        said = completion.completed
        # What was put aside or discarded when it came goes nowhere by what else is decided.
        free = [one for one in chosen if one.aside is None]
        looks = occasions(in_force.needs.triggers, said.version, free, timed=timed is not None)
        # All that the object store is needed for comes before anything is written.
        attributes = [await self._attributes(tx, study, said, look, in_force) for look in looks]
        inputs = in_force.rules.circumstances(said.source, study.tenant, self._clock())
        held = holding(said.last_arrival, in_force.timezone)
        glances: dict[Trigger, Glance] = {}
        going: list[Requested] = []
        more = Emphasis()
        for look, (seen, unread) in zip(looks, attributes, strict=True):
            glance = glances.get(look.trigger)
            if glance is None:
                glance = glances[look.trigger] = Glance(*await self._known(tx, study, look.trigger, in_force))
            evaluation = in_force.rules.evaluate(
                look.trigger,
                _shown(inputs, seen),
                lifted=glance.lifted,
                unhealthy=glance.unhealthy,
            )
            matches = [match for match in evaluation.matches if timed is None or match.rule in timed]
            stopped = {one.id for each in glances.values() for _, put in each.ended.values() for one in put}
            left = [one for one in look.instances if look.trigger != "study" or one.id not in stopped]
            wanted, notes = wishes(matches, held)
            if look.trigger == "series":
                wanted = emphasized(wanted, emphasis(matches, held))
            else:
                more = more.and_(emphasis(matches, held))
            now_going, left_out = without_loops(left, wanted, in_force.rules.returns)
            now_going, withheld = within_sites(now_going, in_force.rules.may_have)
            going += now_going
            glance.take(matches, look, {name: _read(each, in_force, look.trigger) for name, each in seen.items()})
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
        if timed is None:
            await repository.close_completion(tx, study, completion, in_force.version)
            await self._actions.set_timers(tx, study, in_force.needs.timers, said.version)
            unmatched = await self._actions.is_unmatched(tx, study, chosen, matched, goes=bool(everything))
        elif everything and study.unmatched_at is not None:
            await action_rows.set_unmatched(tx, study, None)
        await self._actions.tag(
            tx,
            study,
            [
                tag
                for trigger, glance in glances.items()
                for tag in tags(glance.matches, trigger, in_force.rules.definition)
            ],
            in_force.version,
        )
        for trigger, glance in glances.items():
            for end, put in glance.ended.values():
                await self._actions.put_aside(tx, study, end, put, said.source, in_force.version, version=said.version)
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
                more_problems=changed if trigger in ("study", "timer") else (),
            )
            more_problems = changed if trigger in ("study", "timer") else ()
            await self._say(tx, study, decided, (*glance.tally.problems, *more_problems), kept.document)
        # The clock asks for some destinations only: what the others get is closed already.
        named = {one.destination for one in going}
        told = everything if timed is None or more.rules else [one for one in everything if one.destination in named]
        await self._request(tx, study, told, in_force.version, closing=said.version, had=had)
        await self._record(tx, study, said, chosen, in_force, attributes, glances, before, everything)
        return bool(matched)

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
    ) -> None:
        """Record what the rules saw and where it goes, for people who ask why, and for trying other rules on it."""
        if "timer" in glances:
            # What the clock asks for is no answer to what arrived.
            return
        earlier = await history.record_of(tx, study.id) if said.version > 1 else None
        beyond = in_force.rules.attributes("instance") - _CARRIED
        more, _ = await self._more(chosen, beyond)
        now = self._clock()
        looked_for = {*beyond, *in_force.rules.attributes("study")}
        health = in_force.needs.health
        timers = in_force.needs.timers
        attributes = next(seen["study"] for seen, _ in looked_at if "study" in seen)
        made = chronicle.version(
            *(said.version, now, in_force.version, said.last_arrival, said.source, attributes, chosen),
            named=lambda one: _named(study, one),
            more=more,
            looked_for=looked_for - _CARRIED,
            before=earlier,
            unhealthy=frozenset().union(*(each.unhealthy for each in glances.values())) if health else None,
            lifted=frozenset().union(*(each.lifted for each in glances.values())),
        )
        routes = chronicle.routed(
            {} if earlier is None else earlier.routes,
            [one for one in everything if any(rule not in timers for rule in one.wish.rules)],
            asked=[(one.instance.id, one.destination) for one in before],
            arrivals=chronicle.arrival,
            is_new=lambda one: chronicle.since(one.received_at, made.number, earlier) == made.number,
            decided_at=now,
        )
        await history.keep(tx, study.id, now, chronicle.added(earlier, made, routes))

    async def _attributes(
        self, tx: AsyncSession, study: Study, said: StudyCompleted, look: Occasion, in_force: InForce
    ) -> tuple[dict[str, Attributes], list[str]]:
        """Give what an occasion looks at, by the name of the object. Raises StoreUnavailableError."""
        read = in_force.rules.attributes(look.trigger)
        if look.trigger == "series":
            attributes, unread = await self._series_attributes(study, look.instances, read)
            return {"series": attributes}, unread
        attributes, unread = await self._study_attributes(study, said, look.instances, read)
        if any(key.startswith(TAG) for key in read):
            attributes |= {f"{TAG}{row.name}": row.value for row in await action_rows.tags_of(tx, study.id)}
        if "Delivered" in read:
            attributes["Delivered"] = list(await action_rows.delivered_to(tx, study, said.version))
        return {"study": attributes}, unread

    async def _series_attributes(
        self, study: Study, instances: Sequence[Known], read: Collection[str]
    ) -> tuple[Attributes, list[str]]:
        more, unread = await self._more(instances, set(read) - _CARRIED - {"Sites"})
        attributes: Attributes = {"Sites": sorted({one.source.site for one in instances})}
        seen = [{**more.get(one.id, {}), **_named(study, one), **one.attributes} for one in instances]
        for keyword in set(read) - {"Sites"}:
            value = aggregate(known[keyword] for known in seen if keyword in known)
            if value is not None:
                attributes[keyword] = value
        return attributes, unread

    async def _study_attributes(
        self, study: Study, said: StudyCompleted, chosen: Sequence[Known], read: Collection[str]
    ) -> tuple[Attributes, list[str]]:
        attributes: Attributes = {
            "StudyInstanceUID": study.study_instance_uid,
            "NumberOfStudyRelatedInstances": said.instance_count,
            "NumberOfStudyRelatedSeries": said.series_count,
            "Sites": list(said.sites),
            **said.attributes,
        }
        missing = {key for key in read if key not in attributes and not _is_own(key)}
        more, unread = await self._more(chosen, missing - _CARRIED)
        for keyword in missing:
            seen = ({**more.get(one.id, {}), **_named(study, one), **one.attributes} for one in chosen)
            value = aggregate(known[keyword] for known in seen if keyword in known)
            if value is not None:
                attributes[keyword] = value
        return attributes, unread

    async def _more(
        self, instances: Sequence[Known], keywords: Collection[str]
    ) -> tuple[dict[int, Attributes], list[str]]:
        """Read what events don't carry, and say what can't be read. Raises StoreUnavailableError."""
        if not keywords:
            return {}, []
        try:
            return await asyncio.to_thread(fetch, self._objects, instances, keywords), []
        except (ObjectMissingError, HeadersDamagedError):
            # The instances must go where the other rules send them all the same.
            return {}, [f"the full header can't be read: {', '.join(sorted(keywords))} taken as absent"]

    async def _say(
        self,
        tx: AsyncSession,
        study: Study,
        decided: RoutingDecided,
        problems: Sequence[str],
        inputs: dict[str, Any],
    ) -> None:
        await repository.keep_decision(tx, study, decided, self._clock(), inputs)
        metric.DECISIONS.labels(trigger=decided.trigger, outcome="matched" if decided.matches else "unmatched").inc()
        for match in decided.matches:
            metric.MATCHES.labels(rule=match.rule).inc()
        if problems:
            metric.PROBLEMS.labels(trigger=decided.trigger).inc()
            for problem in problems:
                _LOG.warning("routing problem", study_uid=study.study_instance_uid, tenant=study.tenant, reason=problem)
        await self._outbox.emit(
            tx, decided, subject=study.study_instance_uid, tenant=study.tenant, site=decided.source.site
        )

    async def _request(
        self,
        tx: AsyncSession,
        study: Study,
        made: Sequence[Requested],
        version: int,
        *,
        closing: int | None = None,
        had: Mapping[str, Mapping[str, str]] = NOTHING,
    ) -> None:
        for event in requests(study.study_instance_uid, version, made, closing, had):
            metric.REQUESTED.labels(destination=event.destination).inc(len(event.items))
            await self._outbox.emit(
                tx, event, subject=study.study_instance_uid, tenant=study.tenant, site=made[0].instance.source.site
            )


def _is_own(key: str) -> bool:
    """Tell whether no header has it, but what is known of the study besides."""
    return key in STUDY_EXTRAS or key.startswith(TAG)


def _shown(inputs: Inputs, seen: Mapping[str, Attributes]) -> Inputs:
    return replace(inputs, study=seen.get("study", {}))


def _read(attributes: Attributes, in_force: InForce, trigger: Trigger) -> Attributes:
    return {key: attributes[key] for key in sorted(in_force.rules.attributes(trigger)) if key in attributes}


def _named(study: Study, one: Known) -> Attributes:
    """Give the identity of an instance as attributes."""
    return {
        "StudyInstanceUID": study.study_instance_uid,
        "SeriesInstanceUID": one.series_instance_uid,
        "SOPInstanceUID": one.item.sop_instance_uid,
        "SOPClassUID": one.item.sop_class_uid,
        "TransferSyntaxUID": one.item.transfer_syntax_uid,
    }
