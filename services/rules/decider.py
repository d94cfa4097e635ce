"""Decides on what is known of studies, in the caller's transaction, and says so."""

from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, Final

from sqlalchemy.ext.asyncio import AsyncSession

from contracts.delivery import DeliveryCompleted
from contracts.envelope import Event
from contracts.fact import Attributes, Source
from contracts.instances import InstancesStored, QuarantineResolved
from contracts.procedure import ProcedureCompleted
from contracts.study import StudyAmended, StudyCompleted, StudyExpired
from libs.clock import Clock
from libs.definition.ruleset import Evaluation, Match, RuleSet, RuleSetError
from libs.messaging.outbox import Outbox
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.storage.objects import ObjectStore, StoreUnavailableError
from libs.telemetry import log
from libs.telemetry.trace import attached, study_context, tracer
from services.rules import action_rows, discarding, metric, ordered, procedure_rows, repository
from services.rules.action import emphasis, emphasized, ending, tags
from services.rules.actions import Actions, next_look
from services.rules.hold import holding
from services.rules.in_force import InForce
from services.rules.need import needs
from services.rules.plan import (
    Known,
    Requested,
    of_version,
    wishes,
    within_sites,
    without_loops,
)
from services.rules.reading import CARRIED, Reading, known, named
from services.rules.record import recorded
from services.rules.repository import Study
from services.rules.tally import Tally
from services.rules.teller import Teller
from services.rules.uses import Uses
from services.rules.versions import Versions

_LOG = log.get(__name__)
_TRACER = tracer(__name__)
#: How many studies are looked for at a time when a definition comes into force.
_STUDIES_AT_A_TIME: Final = 100
#: When a rule looks again at a study that waits for a person.
_LOOK_AGAIN: Final = timedelta(minutes=10)


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

    Attributes
    ----------
    uses
        Which rules matched when.
    """

    def __init__(self, network: NetworkView, outbox: Outbox, objects: ObjectStore, clock: Clock) -> None:
        self._network = network
        self._clock = clock
        self._reading = Reading(objects)
        self.uses = Uses()
        self._teller = Teller(outbox, clock, self.uses)
        self._actions = Actions(outbox, clock)
        self._versions = Versions(self._reading, self._teller, self._actions, clock)
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
        round_again = sum(one.item.came_round for one in new)
        if round_again:
            metric.CAME_ROUND.labels(node=event.data.source.node).inc(round_again)
            _LOG.error(
                "a study came again from another node than first: studies go round between sites",
                study_uid=study.study_instance_uid,
                tenant=study.tenant,
                node=event.data.source.node,
                kind="alarm",
            )
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
        is_new = event.data.version > study.expired_version
        study = await repository.expire(tx, study, event.data.version, event.data.kept_since)
        if is_new and study.unmatched_at is not None:
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
        else:
            await self._tell_discarded(tx, study)

    async def _tell_discarded(self, tx: AsyncSession, study: Study) -> None:
        """Say so where people have discarded all that there was of a decided version, which is not decided anew."""
        in_force, completion = self.in_force(), await repository.last_decided(tx, study)
        if in_force is None or completion is None or completion.completed.version <= study.expired_version:
            return
        said = completion.completed
        known = await repository.instances_of(tx, study)
        chosen = of_version(known, said.instance_count, said.content_hash, said.last_arrival)
        if chosen is None or await repository.requested_of(tx, chosen):
            return
        free = [one for one in chosen if one.aside is None]
        whole = await action_rows.whole_discarded(tx, study, said.version, len(free))
        if free and whole is None:
            return
        ended = [] if whole is None else [(str(whole.rule), free)]
        discarded = await discarding.why(tx, study, chosen, ended, in_force)
        if discarded is None:
            return
        kept = recorded(in_force.rules.circumstances(said.source, study.tenant, self._clock()), [])
        tally = Tally()
        tally.add((), 0, problems=(), notes=(), count=len(chosen))
        decided = tally.decided(
            "study",
            *(study.study_instance_uid, in_force.version, said.source, said.version, ()),
            inputs_hash=kept.hash,
            discarded=discarded,
        )
        await self._teller.say(tx, study, decided, (), kept.document)

    async def again(self, tx: AsyncSession, study_id: int) -> bool:
        """Decide once more on a study that no rule matched; give whether one does now."""
        study = await repository.lock_study(tx, study_id)
        if study.unmatched_at is None:
            return True
        await action_rows.undecide(tx, study)
        await self._decide(tx, replace(study, waiting=True), [])
        return (await repository.lock_study(tx, study_id)).unmatched_at is None

    async def delivered(self, event: Event[DeliveryCompleted], tx: AsyncSession) -> None:
        """Note which destinations have a study."""
        said = event.data
        study = await repository.open_study(tx, event.tenant, said.study_instance_uid, event.site)
        await action_rows.note_delivered(tx, study, said.destination, said.study_version)

    async def told_of_order(self, event: Event[Any], tx: AsyncSession, *, cancelled: bool) -> None:
        """Keep what was told of an order, and let rules look again at its study, if that is complete already."""
        told = event.data
        if not await ordered.keep(tx, event.tenant, event.site, told, cancelled=cancelled, at=self._clock()):
            return
        in_force = self.in_force()
        if cancelled or in_force is None or "order" not in in_force.needs.triggers:
            return
        for study_id in await ordered.studies_of(tx, event.tenant, told):
            study = await repository.lock_study(tx, study_id)
            completion = await repository.last_decided(tx, study)
            if completion is None or completion.completed.version <= study.expired_version:
                continue
            if await action_rows.is_aside(tx, study):
                continue
            said = completion.completed
            known = await repository.instances_of(tx, study)
            chosen = of_version(known, said.instance_count, said.content_hash, said.last_arrival)
            if chosen is not None:
                await self._versions.decide(tx, study, completion, chosen, in_force, late_order=True)

    async def performed(self, event: Event[ProcedureCompleted], tx: AsyncSession) -> None:
        """Keep a procedure step, and decide on it if its study is decided. Raises StoreUnavailableError.

        One whose study is not is decided with the study's next version.
        """
        study = await repository.open_study(tx, event.tenant, event.data.study_instance_uid, event.site)
        step = await procedure_rows.keep(tx, study, event.data)
        in_force = self.in_force()
        if step is None or in_force is None or "procedure" not in in_force.needs.triggers:
            return
        completion = await repository.last_decided(tx, study)
        if completion is None or completion.completed.version <= study.expired_version:
            return
        said = completion.completed
        known = await repository.instances_of(tx, study)
        chosen = of_version(known, said.instance_count, said.content_hash, said.last_arrival)
        if chosen is not None and not await action_rows.is_aside(tx, study):
            await self._versions.decide(tx, study, completion, chosen, in_force, step=step)

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
        free = [one for one in chosen or () if one.aside is None]
        if await action_rows.whole_discarded(tx, study, said.version, len(free)) is not None:
            await action_rows.move_timer(tx, timer, None)
            return
        matched = chosen is not None and await self._versions.decide(
            tx, study, completion, chosen, in_force, {rule.name}
        )
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
                await self._versions.decide(tx, study, completion, chosen, in_force)
                break

    async def _decide_instances(
        self, tx: AsyncSession, study: Study, undecided: Sequence[Known], in_force: InForce
    ) -> None:
        more, unread = await self._reading.more(undecided, in_force.rules.attributes("instance") - CARRIED)
        now = self._clock()
        lifted, unhealthy = await known(tx, study, "instance", in_force)
        sources = dict.fromkeys(one.source for one in undecided)
        decisions = {source: Tally() for source in sources}
        surrounding = {
            source: in_force.rules.circumstances(source, study.tenant, now, dict.fromkeys(unhealthy, False))
            for source in sources
        }
        if "instance" in in_force.needs.orders:
            order = await ordered.of_study(
                tx, study.tenant, study.study_instance_uid, undecided[0].source.site, undecided[0].attributes
            )
            surrounding = {source: one.having(order=order) for source, one in surrounding.items()}
        made: list[Requested] = []
        read = sorted(in_force.rules.attributes("instance"))
        # Most instances of a batch say the same where the rules look.
        evaluations: dict[tuple[Source, str], Evaluation] = {}
        looked: dict[Source, list[Attributes]] = {source: [] for source in sources}
        ended: dict[Source, dict[str, tuple[Match, list[Known]]]] = {source: {} for source in sources}
        for one in undecided:
            tally = decisions[one.source]
            inputs = surrounding[one.source]
            attributes = {**more.get(one.id, {}), **named(study, one), **one.attributes}
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
        asked = unhealthy if "instance" in in_force.needs.health else None
        await repository.mark_decided(tx, undecided, in_force.version, asked)
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
                unhealthy=asked,
            )
            await self._teller.say(tx, study, decided, tally.problems, inputs_kept.document)
        await self._teller.request(tx, study, made, in_force)
