"""Decides on what is known of studies, in the caller's transaction, and says so."""

import asyncio
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

from sqlalchemy.ext.asyncio import AsyncSession

from contracts.envelope import Event
from contracts.fact import Attributes, Source
from contracts.instances import InstancesStored
from contracts.routing import RoutingDecided
from contracts.study import StudyAmended, StudyCompleted, StudyExpired
from libs.clock import Clock
from libs.definition.attributes import STUDY_EXTRAS
from libs.definition.ruleset import Evaluation, RuleSet, RuleSetError
from libs.dicom.header import BASE_KEYWORDS
from libs.messaging.outbox import Outbox
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.storage.objects import ObjectMissingError, ObjectStore, StoreUnavailableError
from libs.telemetry import log
from libs.telemetry.trace import attached, study_context, tracer
from services.rules import chronicle, history, metric, repository
from services.rules.headers import HeadersDamagedError, fetch
from services.rules.plan import (
    NOTHING,
    Known,
    Requested,
    aggregate,
    of_version,
    requests,
    united,
    wishes,
    within_sites,
    without_loops,
)
from services.rules.repository import Completion, Study
from services.rules.tally import Tally

_LOG = log.get(__name__)
_TRACER = tracer(__name__)
#: What events and the instance's row say anyway: no need for the full header.
_CARRIED: Final = frozenset({*BASE_KEYWORDS, "TransferSyntaxUID"})
#: How many studies are looked for at a time when a definition comes into force.
_STUDIES_AT_A_TIME: Final = 100


@dataclass(frozen=True)
class InForce:
    """The rules in force and the version of the definition that they are from."""

    version: int
    rules: RuleSet


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
        self._in_force: InForce | None = None
        self._refused: int | None = None

    def in_force(self) -> InForce | None:
        """Give the rules in force. A definition whose rules this release can't read leaves the ones before in force."""
        snapshot = self._network.current
        if snapshot is None or snapshot.version == self._refused:
            return self._in_force
        if self._in_force is None or self._in_force.version != snapshot.version:
            try:
                self._in_force = InForce(snapshot.version, RuleSet(snapshot.definition))
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
        await self._decide(tx, study, [])

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
                await self._decide_study(tx, study, completion, chosen, in_force)
                break

    async def _decide_instances(
        self, tx: AsyncSession, study: Study, undecided: Sequence[Known], in_force: InForce
    ) -> None:
        more, unread = await self._more(undecided, in_force.rules.attributes("instance") - _CARRIED)
        now = self._clock()
        sources = dict.fromkeys(one.source for one in undecided)
        decisions = {source: Tally() for source in sources}
        surrounding = {source: in_force.rules.circumstances(source, study.tenant, now) for source in sources}
        made: list[Requested] = []
        read = sorted(in_force.rules.attributes("instance"))
        # Most instances of a batch say the same where the rules look.
        evaluations: dict[tuple[Source, str], Evaluation] = {}
        for one in undecided:
            tally = decisions[one.source]
            inputs = surrounding[one.source]
            attributes = {**more.get(one.id, {}), **_named(study, one), **one.attributes}
            seen = one.source, repr([attributes.get(keyword) for keyword in read])
            evaluation = evaluations.get(seen)
            if evaluation is None:
                evaluation = in_force.rules.evaluate("instance", replace(inputs, instance=attributes))
                evaluations[seen] = evaluation
            wanted, notes = wishes(evaluation.matches)
            going, left_out = without_loops([one], wanted, in_force.rules.returns)
            going, withheld = within_sites(going, in_force.rules.may_have)
            made += going
            problems = (*unread, *evaluation.errors, *notes)
            tally.add(evaluation.matches, evaluation.rules_evaluated, problems=problems, notes=(*left_out, *withheld))
        await repository.keep_requests(tx, made, in_force.version)
        await repository.mark_decided(tx, undecided, in_force.version)
        for source, tally in decisions.items():
            decided = tally.decided("instance", study.study_instance_uid, in_force.version, source)
            await self._say(tx, study, decided, tally.problems)
        await self._request(tx, study, made, in_force.version)

    async def _decide_study(
        self, tx: AsyncSession, study: Study, completion: Completion, chosen: Sequence[Known], in_force: InForce
    ) -> None:
        said = completion.completed
        inputs = in_force.rules.circumstances(said.source, study.tenant, self._clock())
        attributes, unread = await self._study_attributes(study, said, chosen, in_force.rules.attributes("study"))
        evaluation = in_force.rules.evaluate("study", replace(inputs, study=attributes))
        wanted, notes = wishes(evaluation.matches)
        going, left_out = without_loops(chosen, wanted, in_force.rules.returns)
        going, withheld = within_sites(going, in_force.rules.may_have)
        before = await repository.requested_of(tx, chosen)
        everything, changed = united(before, going)
        had = await repository.requested_before(tx, study, said.version)
        await repository.keep_requests(tx, going, in_force.version)
        await repository.close_completion(tx, study, completion, in_force.version)
        tally = Tally(count=len(chosen))
        problems = (*unread, *evaluation.errors, *notes, *changed)
        tally.add(evaluation.matches, evaluation.rules_evaluated, problems=problems, notes=(*left_out, *withheld))
        decided = tally.decided(
            "study", study.study_instance_uid, in_force.version, said.source, said.version, everything
        )
        await self._say(tx, study, decided, tally.problems)
        await self._request(tx, study, everything, in_force.version, closing=said.version, had=had)
        await self._record(tx, study, said, chosen, in_force, attributes, before, everything)

    async def _record(
        self,
        tx: AsyncSession,
        study: Study,
        said: StudyCompleted,
        chosen: Sequence[Known],
        in_force: InForce,
        attributes: Attributes,
        before: Sequence[Requested],
        everything: Sequence[Requested],
    ) -> None:
        """Record what the rules saw and where it goes, for people who ask why, and for trying other rules on it."""
        earlier = await history.record_of(tx, study.id) if said.version > 1 else None
        beyond = in_force.rules.attributes("instance") - _CARRIED
        more, _ = await self._more(chosen, beyond)
        now = self._clock()
        looked_for = {*beyond, *in_force.rules.attributes("study")}
        made = chronicle.version(
            *(said.version, now, in_force.version, said.last_arrival, said.source, attributes, chosen),
            named=lambda one: _named(study, one),
            more=more,
            looked_for=looked_for - _CARRIED,
            before=earlier,
        )
        routes = chronicle.routed(
            {} if earlier is None else earlier.routes,
            everything,
            asked=[(one.instance.id, one.destination) for one in before],
            arrivals=chronicle.arrival,
            is_new=lambda one: chronicle.since(one.received_at, made.number, earlier) == made.number,
            decided_at=now,
        )
        await history.keep(tx, study.id, now, chronicle.added(earlier, made, routes))

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
        missing = set(read) - set(attributes) - set(STUDY_EXTRAS)
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

    async def _say(self, tx: AsyncSession, study: Study, decided: RoutingDecided, problems: Sequence[str]) -> None:
        await repository.keep_decision(tx, study, decided, self._clock())
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


def _named(study: Study, one: Known) -> Attributes:
    """Give the identity of an instance as attributes."""
    return {
        "StudyInstanceUID": study.study_instance_uid,
        "SeriesInstanceUID": one.series_instance_uid,
        "SOPInstanceUID": one.item.sop_instance_uid,
        "SOPClassUID": one.item.sop_class_uid,
        "TransferSyntaxUID": one.item.transfer_syntax_uid,
    }
