"""The embedded transport's store against a model of what a queue is."""

import tempfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule
from pamqp.commands import Basic
from pamqp.header import ContentHeader

from libs.messaging.death import deaths
from libs.messaging.store import Claimed, NotDeclaredError, Store, pack, unpack

pytestmark = pytest.mark.unit

LIMIT = 2
TTL_MS = 10_000


class Queues(RuleBasedStateMachine):
    """A work queue with a delivery limit and an expiry, and the queue of its dead letters."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.now = 1_000_000.0
        self.published = 0
        self.ready: list[bytes] = []
        self.deliveries: dict[bytes, int] = {}
        self.expires: dict[bytes, float] = {}
        self.held: list[Claimed] = []
        self.dead: list[bytes] = []
        self.start()
        self.store.begin()
        self.store.declare_exchange("events", "topic", passive=False)
        self.store.declare_exchange("dead", "direct", passive=False)
        arguments = {
            "x-delivery-limit": LIMIT, "x-message-ttl": TTL_MS,
            "x-dead-letter-exchange": "dead", "x-dead-letter-routing-key": "dead",
        }  # fmt: skip
        self.store.declare_queue("work", arguments, passive=False)
        self.store.declare_queue("dead", {}, passive=False)
        self.store.bind("events", "study.#", "work")
        self.store.bind("dead", "dead", "dead")
        self.store.commit()

    def start(self) -> None:
        self.store = Store(Path(self.folder.name) / "bus.db", lambda: self.now)
        self.store.open()

    def teardown(self) -> None:
        self.store.close()
        self.folder.cleanup()

    def returned(self, body: bytes) -> None:
        if self.deliveries[body] > LIMIT:
            self.dead.append(body)
        else:
            self.ready.append(body)

    @rule()
    def publish(self) -> None:
        self.published += 1
        body = b"%d" % self.published
        self.store.begin()
        assert self.store.publish("events", "study.completed", pack(ContentHeader(0, len(body))), body, None) == 1
        self.store.commit()
        self.ready.append(body)
        self.deliveries[body] = 0
        self.expires[body] = self.now + TTL_MS / 1000

    @rule()
    def publish_and_roll_back(self) -> None:
        self.store.begin()
        self.store.publish("events", "study", pack(ContentHeader()), b"never", None)
        self.store.rollback()

    @rule(limit=st.integers(1, 4))
    def claim(self, limit: int) -> None:
        self.store.begin()
        claimed = self.store.claim("work", limit)
        self.store.commit()
        due = sorted((body for body in self.ready if self.expires[body] > self.now), key=int)
        assert [each.body for each in claimed] == due[:limit]
        for each in claimed:
            self.ready.remove(each.body)
            self.deliveries[each.body] += 1
            assert each.deliveries == self.deliveries[each.body]
        self.held += claimed

    @rule(settle=st.booleans(), requeue=st.booleans())
    def answer(self, settle: bool, requeue: bool) -> None:
        if not self.held:
            return
        message = self.held.pop(0)
        self.store.begin()
        if settle:
            self.store.settle([message.id])
            del self.deliveries[message.body]
        elif requeue:
            self.store.give_back([message.id])
            self.returned(message.body)
        else:
            self.store.reject([message.id])
            self.dead.append(message.body)
        self.store.commit()

    @rule(seconds=st.floats(0.5, TTL_MS / 500))
    def time_goes_by(self, seconds: float) -> None:
        self.now += seconds
        self.store.begin()
        self.store.expire()
        self.store.commit()
        gone = [body for body in self.ready if self.expires[body] <= self.now]
        self.dead += gone
        self.ready = [body for body in self.ready if body not in gone]

    @rule()
    def crash(self) -> None:
        self.store.close()
        for message in self.held:
            self.returned(message.body)
        self.held.clear()
        self.start()

    @invariant()
    def next_expiry_is_that_of_the_oldest_ready_message(self) -> None:
        assert self.store.next_expiry() == min((self.expires[body] for body in self.ready), default=None)

    @invariant()
    def nothing_is_lost_and_nothing_is_doubled(self) -> None:
        self.store.begin()
        ready = self.store.declare_queue("work", {}, passive=True)
        buried = self.store.claim("dead", 10_000)
        self.store.rollback()
        assert ready == len(self.ready)
        assert sorted(each.body for each in buried) == sorted(self.dead)
        assert all(deaths(each.header.properties.headers or {})[0]["queue"] == "work" for each in buried)


Queues.TestCase.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)
TestQueues = Queues.TestCase


def test_a_dead_letter_that_nobody_takes_waits_until_somebody_does(tmp_path: Path) -> None:
    store = Store(tmp_path / "bus.db", lambda: 0.0)
    store.open()
    store.begin()
    store.declare_queue("work", {"x-dead-letter-exchange": "dead", "x-dead-letter-routing-key": "d"}, passive=False)
    store.publish("", "work", pack(ContentHeader()), b"body", None)
    store.reject([store.claim("work", 1)[0].id])
    assert store.claim("work", 1) == []
    store.declare_exchange("dead", "direct", passive=False)
    store.declare_queue("d", {}, passive=False)
    store.bind("dead", "d", "d")
    assert [each.body for each in store.claim("d", 1)] == [b"body"]
    store.commit()
    store.close()


def test_an_exchange_that_nobody_declared_is_told(tmp_path: Path) -> None:
    store = Store(tmp_path / "bus.db", lambda: 0.0)
    store.open()
    store.begin()
    with pytest.raises(NotDeclaredError, match="nowhere"):
        store.publish("nowhere", "key", pack(ContentHeader()), b"", None)
    store.rollback()
    store.close()


def test_properties_survive_with_their_types() -> None:
    headers: dict[str, Any] = {"text": "ä", "number": 2**40, "table": {"list": [1, "two"]}, "flag": True}
    packed = pack(ContentHeader(0, 3, Basic.Properties(headers=headers, message_id="m", delivery_mode=2)))
    read = unpack(packed).properties
    assert (read.headers, read.message_id, read.delivery_mode) == (headers, "m", 2)


@pytest.mark.parametrize("restarted", [False, True])
def test_no_message_waits_for_a_clock_that_was_put_back(tmp_path: Path, restarted: bool) -> None:
    now = 1_000_000.0
    store = Store(tmp_path / "bus.db", lambda: now)
    store.open()
    store.begin()
    store.declare_queue("work", {}, passive=False)
    arguments = {"x-message-ttl": TTL_MS, "x-dead-letter-exchange": "", "x-dead-letter-routing-key": "work"}
    store.declare_queue("wait", arguments, passive=False)
    store.publish("", "wait", pack(ContentHeader()), b"body", None)
    store.commit()
    now -= 3600
    if restarted:
        store.close()
        store = Store(tmp_path / "bus.db", lambda: now)
        store.open()
    assert store.next_expiry() == now + TTL_MS / 1000
    now += TTL_MS / 1000
    store.begin()
    store.expire()
    assert [each.body for each in store.claim("work", 1)] == [b"body"]
    store.commit()
    store.close()
