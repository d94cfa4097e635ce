"""Any interleaving of batches, versions, repetitions, people and the clock, on the real tables of both databases.

Nothing goes anywhere twice or too early: what was discarded never, what was put aside not before a person released it;
each version of a delivery is closed once, and once more where a release made it more. Nothing is missing in the end,
whatever came first.
"""

import asyncio
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import delete, select

from contracts.delivery import DeliveryHold
from contracts.envelope import Event
from contracts.routing import RoutingQuarantined
from contracts.study import StudyTagged
from services.rules import action_rows
from services.rules.action import effective
from services.rules.models import messaging, studies
from tests.unit.rules.scene import (
    NOW,
    Scene,
    act,
    completed,
    definition,
    instance,
    items,
    make_scene,
    resolved,
    stored,
)
from tests.unit.rules.scene import rule as delivering

pytestmark = pytest.mark.integration

ODD, SCOUT, *REST = (instance(number, InstanceNumber=number) for number in range(1, 6))
LATE = instance(6, InstanceNumber=6).model_copy(update={"series_instance_uid": "1.2.3.9"})
FIRST, ALL = [ODD, SCOUT, *REST], [ODD, SCOUT, *REST, LATE]
RULES = definition(
    act("odd", when="instance.InstanceNumber == 1", quarantine="odd"),
    act("scouts", when="instance.InstanceNumber == 2", discard="a scout image", tag={"scout": "yes"}),
    delivering("all", hold="30m"),
    delivering("series", "telerad", "series", when='series.SeriesInstanceUID == "1.2.3.9"', priority="bulk"),
    act("large", "study", when="study.NumberOfStudyRelatedInstances > 5", priority="urgent", tag={"size": "large"}),
    delivering("late", "telerad", "timer", after="1h", when='study.Tags.size == "large"'),
)


class Machine(RuleBasedStateMachine):
    """Events to one study of a tenant of its own."""

    number = 0

    def __init__(self, runner: asyncio.Runner, scene: Scene) -> None:
        super().__init__()
        self._runner = runner
        self._scene = scene

    @initialize(early=st.booleans())
    def begin(self, early: bool) -> None:
        """Begin with a new study, with or without a definition in force."""
        Machine.number += 1
        self.tenant = f"t{Machine.number}"
        self.left = list(ALL)
        self.versions = [completed(*FIRST, Modality="CT"), completed(*ALL, version=2, Modality="CT")]
        self.taken: list[Event[Any]] = []
        self.released = False
        self._scene.clock.now = NOW
        self._scene.snapshots.clear()
        self._scene.decider._in_force = None
        self._scene.network.current = None
        self._run(self._clear())
        if early:
            self.apply()

    def _run(self, work: Any) -> Any:
        return self._runner.run(work)

    async def _clear(self) -> None:
        async with self._scene.database.transaction() as tx:
            await tx.execute(delete(messaging.outbox))

    def _take(self, event: Event[Any]) -> None:
        mine = event.model_copy(update={"tenant": self.tenant})
        self.taken.append(mine)
        self._run(self._scene.take(mine))

    @precondition(lambda self: not self._scene.snapshots)
    @rule()
    def apply(self) -> None:
        """Bring the definition into force, and decide on what waits."""
        self._run(self._scene.apply(RULES))
        self._run(self._scene.decider.catch_up(self._scene.database))

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def store(self, data: st.DataObject) -> None:
        """Have a batch of any instances come."""
        batch = data.draw(st.lists(st.sampled_from(self.left), min_size=1, unique_by=lambda one: one.sop_instance_uid))
        self.left = [one for one in self.left if one not in batch]
        self._take(stored(*batch, Modality="CT"))

    @precondition(lambda self: self.versions)
    @rule(data=st.data())
    def complete(self, data: st.DataObject) -> None:
        """Have a version come, before or after its instances, or before the one before it."""
        version = data.draw(st.sampled_from(self.versions))
        self.versions.remove(version)
        self._take(version)

    @precondition(lambda self: self.taken)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        """Have anything come once more."""
        self._run(self._scene.take(data.draw(st.sampled_from(self.taken))))

    @rule()
    def release(self) -> None:
        """Have a person release what was put aside, if anything is."""
        told = self._run(self._scene.emitted(RoutingQuarantined))
        if told:
            self.released = True
            self._take(resolved(told[0].quarantine_id))

    @rule(minutes=st.sampled_from([10, 60]))
    def wait(self, minutes: int) -> None:
        """Let time pass, and rules look."""
        self._scene.clock.now += timedelta(minutes=minutes)
        self._run(self._scene.look())

    @invariant()
    def nothing_goes_where_it_must_not(self) -> None:
        """What was discarded goes nowhere, and what was put aside only once it was released."""
        if not hasattr(self, "tenant"):
            return
        requests = self._run(self._scene.requested())
        gone = {uid for _, uid in items(requests)}
        assert SCOUT.sop_instance_uid not in gone
        assert self.released or ODD.sop_instance_uid not in gone
        assert len(self._run(self._scene.emitted(RoutingQuarantined))) <= 1
        tagged = [name for one in self._run(self._scene.emitted(StudyTagged)) for name in one.tags]
        assert len(tagged) == len(set(tagged))
        closings = Counter(
            (one.destination, one.study_version, one.expected_count) for one in requests if one.study_version
        )
        # The rule of the clock asks for telerad, which the series is sent to by itself; a release closes once more.
        assert all(count <= 1 + (where == "telerad") + self.released for (where, _, _), count in closings.items())

    def teardown(self) -> None:
        """Whatever came first: in the end everything is where it is to go, and nothing else."""
        if not hasattr(self, "tenant"):
            return
        if not self._scene.snapshots:
            self.apply()
        if self.left:
            self._take(stored(*self.left, Modality="CT"))
        for version in list(self.versions):
            self._take(version)
        self.release()
        for _ in range(2):
            self.wait(60)
        requests = self._run(self._scene.requested())
        everything = {one.sop_instance_uid for one in ALL} - {SCOUT.sop_instance_uid}
        assert items(requests) == {(where, uid) for where in ("pacs", "telerad") for uid in everything}
        final = {
            one.destination: (one.expected_count, one.priority)
            for one in requests
            if one.study_version == 2 and one.expected_count == len(everything)
        }
        assert set(final) == {"pacs", "telerad"}
        (lanes,) = [{one.priority for one in requests if one.destination == "pacs" and one.study_version == 2}]
        assert lanes == {"urgent"}
        until = LATE.received_at + timedelta(minutes=30)
        holds = [one.hold for one in requests if one.destination == "pacs"]
        assert max(hold.until for hold in holds if hold is not None and hold.until is not None) == until
        assert holds[-1] == DeliveryHold(rule="all", until=until)
        assert self._run(self._tags()) == {"scout": "yes", "size": "large"}
        assert self._run(self._scene.look()) == 0

    async def _tags(self) -> dict[str, str]:
        async with self._scene.database.reading() as tx:
            study = await tx.scalar(select(studies.c.id).where(studies.c.tenant == self.tenant))
            assert study is not None
            return {name: tag.value for name, tag in effective(await action_rows.tags_of(tx, study)).items()}


def test_any_interleaving(tmp_path: Path, database_url: str) -> None:
    with asyncio.Runner() as runner:
        scene = runner.run(make_scene(tmp_path, database_url))
        try:
            run_state_machine_as_test(
                lambda: Machine(runner, scene),  # type: ignore[arg-type]  # it only calls it
                settings=settings(
                    max_examples=15,
                    stateful_step_count=20,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
        finally:
            runner.run(scene.database.close())
