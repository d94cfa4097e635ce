"""Queues, bindings and messages of the embedded transport in one SQLite file. Synchronous; the bus calls it."""

import json
import os
import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from pamqp.header import ContentHeader

from libs.messaging.death import DeathReason, with_death
from libs.messaging.topic import matches

_SCHEMA = """
CREATE TABLE IF NOT EXISTS exchange(name TEXT PRIMARY KEY, type TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS queue(name TEXT PRIMARY KEY, arguments TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS binding(exchange TEXT, pattern TEXT, queue TEXT, PRIMARY KEY(exchange, pattern, queue)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS message(
    id INTEGER PRIMARY KEY AUTOINCREMENT,
    queue TEXT NOT NULL,
    state TEXT NOT NULL DEFAULT 'ready' CHECK(state IN ('ready', 'leased', 'stranded')),
    deliveries INTEGER NOT NULL DEFAULT 0,
    expires_at REAL,
    exchange TEXT NOT NULL,
    routing_key TEXT NOT NULL,
    header BLOB NOT NULL,
    body BLOB NOT NULL,
    death TEXT
);
CREATE INDEX IF NOT EXISTS message_ready ON message(queue, id) WHERE state = 'ready';
CREATE INDEX IF NOT EXISTS message_expiry ON message(expires_at) WHERE state = 'ready' AND expires_at IS NOT NULL;
CREATE INDEX IF NOT EXISTS message_unready ON message(state) WHERE state <> 'ready';
"""  # noqa: E501

#: Routes are remembered until something is declared; keys hold tenants and sites, so they are few.
_ROUTES_KEPT = 10_000


class Claimed(NamedTuple):
    """A message that was given to a consumer."""

    id: int
    deliveries: int
    exchange: str
    routing_key: str
    header: ContentHeader
    body: bytes


@dataclass(frozen=True)
class _Queue:
    message_ttl_ms: int | None
    delivery_limit: int | None
    dead_exchange: str | None
    dead_routing_key: str | None
    transient: bool

    @classmethod
    def read(cls, arguments: dict[str, Any]) -> "_Queue":
        return cls(
            arguments.get("x-message-ttl"),
            arguments.get("x-delivery-limit"),
            arguments.get("x-dead-letter-exchange"),
            arguments.get("x-dead-letter-routing-key"),
            "x-expires" in arguments,
        )


class NotDeclaredError(Exception):
    """An exchange or queue was named that nobody has declared."""

    safe_to_log = True


def pack(header: ContentHeader) -> bytes:
    """Encode the properties as AMQP 0-9-1 does (section 4.2.6.1), so that header types survive as on a real broker."""
    return header.marshal()


def unpack(data: bytes) -> ContentHeader:
    """Decode what `pack` gave."""
    header = ContentHeader()
    header.unmarshal(data)
    return header


class Store:
    """The file. Except for `open` and `close`, every method runs inside a transaction that the bus has begun.

    Attributes
    ----------
    woken
        Queues that have got something to deliver since the bus last looked.
    """

    def __init__(self, path: Path, time: Callable[[], float]) -> None:
        self._path = path
        self._time = time
        self._queues: dict[str, _Queue] = {}
        self._exchanges: dict[str, str] = {}
        self._bindings: dict[str, list[tuple[str, str]]] = {}
        self._routes: dict[tuple[str, str], tuple[str, ...]] = {}
        self.woken: set[str] = set()

    def open(self) -> None:
        """Open or create the file, and take back what a process before this one had not settled."""
        # SQLite would make it readable for all; its journal files take their mode from it.
        os.close(os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600))
        self._db = sqlite3.connect(self._path, isolation_level=None, check_same_thread=False)
        self._db.execute("PRAGMA busy_timeout = 10000")
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self._db.execute("PRAGMA journal_size_limit = 67108864")
        self._db.executescript(_SCHEMA)
        with self._db:
            self._db.execute("BEGIN IMMEDIATE")
            self._forget_transient()
            self.reload()
            self.give_back([row[0] for row in self._db.execute("SELECT id FROM message WHERE state = 'leased'")])

    def close(self) -> None:
        """Close the file."""
        self._db.close()

    def begin(self) -> None:
        """Begin a transaction."""
        if self._db.in_transaction:  # one that could not be rolled back
            self.rollback()
        self._db.execute("BEGIN IMMEDIATE")

    def commit(self) -> None:
        """Commit: durable when it returns."""
        self._db.execute("COMMIT")

    def rollback(self) -> None:
        """Undo the transaction, also in memory."""
        if self._db.in_transaction:  # SQLite has rolled back by itself after some errors
            self._db.execute("ROLLBACK")
        self.woken.clear()
        self.reload()

    def reload(self) -> None:
        """Read exchanges, queues and bindings."""
        self._exchanges = dict(self._db.execute("SELECT name, type FROM exchange"))
        rows = self._db.execute("SELECT name, arguments FROM queue")
        self._queues = {name: _Queue.read(json.loads(arguments)) for name, arguments in rows}
        self._bindings = {}
        for exchange, pattern, queue in self._db.execute("SELECT exchange, pattern, queue FROM binding"):
            self._bindings.setdefault(exchange, []).append((pattern, queue))
        self._routes.clear()

    def declare_exchange(self, name: str, kind: str, *, passive: bool) -> None:
        """Make an exchange; `passive` only asks whether it is there."""
        if passive:
            if name not in self._exchanges:
                raise NotDeclaredError(f"no exchange {name}: it is declared when Kivuko starts")
            return
        self._db.execute("INSERT OR REPLACE INTO exchange VALUES (?, ?)", (name, kind))
        self.reload()

    def declare_queue(self, name: str, arguments: dict[str, Any], *, passive: bool) -> int:
        """Make a queue, or give an existing one new arguments; return how many messages are ready in it."""
        if not passive:
            self._db.execute("INSERT OR REPLACE INTO queue VALUES (?, ?)", (name, json.dumps(arguments)))
            self.reload()
            self._retry_stranded()
        elif name not in self._queues:
            raise NotDeclaredError(f"no queue {name}: it is declared when Kivuko starts")
        ready = self._db.execute("SELECT count(*) FROM message WHERE queue = ? AND state = 'ready'", (name,))
        return int(ready.fetchone()[0])

    def bind(self, exchange: str, pattern: str, queue: str) -> None:
        """Bind a queue to an exchange."""
        if exchange not in self._exchanges:
            raise NotDeclaredError(f"no exchange {exchange}: declare it before binding {queue} to it")
        self._db.execute("INSERT OR IGNORE INTO binding VALUES (?, ?, ?)", (exchange, pattern, queue))
        self.reload()
        self._retry_stranded()

    def publish(self, exchange: str, routing_key: str, header: bytes, body: bytes, ttl_ms: int | None) -> int:
        """Put a message into every queue that the exchange routes it to; return how many."""
        queues = self.route(exchange, routing_key)
        now = self._time()
        for name in queues:
            limits = [ttl for ttl in (ttl_ms, self._queues[name].message_ttl_ms) if ttl is not None]
            expires_at = now + min(limits) / 1000 if limits else None
            self._db.execute(
                "INSERT INTO message(queue, expires_at, exchange, routing_key, header, body) VALUES (?, ?, ?, ?, ?, ?)",
                (name, expires_at, exchange, routing_key, header, body),
            )
            self.woken.add(name)
        return len(queues)

    def route(self, exchange: str, routing_key: str) -> tuple[str, ...]:
        """Give the queues that a message goes to."""
        if not exchange:
            return (routing_key,) if routing_key in self._queues else ()
        if exchange not in self._exchanges:
            raise NotDeclaredError(f"no exchange {exchange}: it is declared when Kivuko starts")
        found = self._routes.get((exchange, routing_key))
        if found is None:
            kind = self._exchanges[exchange]
            found = tuple(
                sorted({q for pattern, q in self._bindings.get(exchange, ()) if _takes(kind, pattern, routing_key)})
            )
            if len(self._routes) >= _ROUTES_KEPT:
                self._routes.clear()
            self._routes[exchange, routing_key] = found
        return found

    def claim(self, queue: str, limit: int) -> list[Claimed]:
        """Give up to `limit` ready messages to a consumer, oldest first. Each claim counts as a delivery."""
        rows = self._db.execute(
            "UPDATE message SET state = 'leased', deliveries = deliveries + 1 WHERE id IN (SELECT id FROM message "
            "WHERE queue = ? AND state = 'ready' AND (expires_at IS NULL OR expires_at > ?) ORDER BY id LIMIT ?) "
            "RETURNING id, deliveries, exchange, routing_key, header, body",
            (queue, self._time(), limit),
        ).fetchall()
        return [
            Claimed(id_, deliveries, exchange, routing_key, unpack(header), body)
            for id_, deliveries, exchange, routing_key, header, body in sorted(rows)
        ]

    def settle(self, ids: Sequence[int]) -> None:
        """Forget messages that were acknowledged."""
        self._db.executemany("DELETE FROM message WHERE id = ? AND state = 'leased'", [(id_,) for id_ in ids])

    def give_back(self, ids: Sequence[int]) -> None:
        """Take messages back; the one that was delivered more often than its queue allows is dead."""
        for id_ in ids:
            row = self._db.execute(
                "SELECT queue, deliveries FROM message WHERE id = ? AND state = 'leased'", (id_,)
            ).fetchone()
            if row is None:
                continue
            queue, deliveries = row
            limit = self._queues[queue].delivery_limit
            if limit is not None and deliveries > limit:
                self._kill(id_, "delivery_limit")
            else:
                self._db.execute("UPDATE message SET state = 'ready' WHERE id = ?", (id_,))
                self.woken.add(queue)

    def unclaim(self, ids: Sequence[int]) -> None:
        """Take back messages that no handler has seen: that was no delivery."""
        for id_ in ids:
            rows = self._db.execute(
                "UPDATE message SET state = 'ready', deliveries = deliveries - 1 "
                "WHERE id = ? AND state = 'leased' RETURNING queue",
                (id_,),
            ).fetchall()
            self.woken.update(queue for (queue,) in rows)

    def reject(self, ids: Sequence[int]) -> None:
        """Send messages to their queue's dead-letter exchange."""
        for id_ in ids:
            if self._db.execute("SELECT 1 FROM message WHERE id = ? AND state = 'leased'", (id_,)).fetchone():
                self._kill(id_, "rejected")

    def expire(self) -> None:
        """Send what has outlived its time to its queue's dead-letter exchange."""
        self._follow_clock()
        due = self._db.execute(
            "SELECT id FROM message WHERE state = 'ready' AND expires_at <= ? ORDER BY expires_at, id LIMIT 1000",
            (self._time(),),
        ).fetchall()
        for (id_,) in due:
            self._kill(id_, "expired")

    def next_expiry(self) -> float | None:
        """Give the time at which the next message expires, in seconds since 1970, or None."""
        found = self._first_expiry()
        longest = max((queue.message_ttl_ms or 0 for queue in self._queues.values()), default=0) / 1000
        if found is not None and found > self._time() + longest:
            self._follow_clock()
            found = self._first_expiry()
        return found

    def _first_expiry(self) -> float | None:
        found = self._db.execute(
            "SELECT min(expires_at) FROM message WHERE state = 'ready' AND expires_at IS NOT NULL"
        ).fetchone()[0]
        return None if found is None else float(found)

    def _follow_clock(self) -> None:
        """Let nothing wait for longer than its queue says: the clock may have been put back since it came."""
        now = self._time()
        for name, queue in self._queues.items():
            if queue.message_ttl_ms is not None:
                latest = now + queue.message_ttl_ms / 1000
                self._db.execute(
                    "UPDATE message SET expires_at = ? WHERE queue = ? AND state = 'ready' AND expires_at > ?",
                    (latest, name, latest),
                )

    def _kill(self, id_: int, reason: DeathReason) -> None:
        queue, exchange, routing_key, packed, body = self._db.execute(
            "SELECT queue, exchange, routing_key, header, body FROM message WHERE id = ?", (id_,)
        ).fetchone()
        declared = self._queues[queue]
        if declared.dead_exchange is not None:
            header = unpack(packed)
            properties = header.properties
            properties.headers = with_death(
                properties.headers or {},
                queue=queue,
                reason=reason,
                exchange=exchange,
                routing_key=routing_key,
                time=datetime.fromtimestamp(int(self._time()), UTC),
                expiration=properties.expiration or None,
            )
            properties.expiration = None
            target = declared.dead_routing_key or routing_key
            # A dead letter that nobody takes is kept until somebody does, as RabbitMQ's `at-least-once` keeps it.
            known = not declared.dead_exchange or declared.dead_exchange in self._exchanges
            if not known or self.publish(declared.dead_exchange, target, pack(header), body, None) == 0:
                self._db.execute("UPDATE message SET state = 'stranded', death = ? WHERE id = ?", (reason, id_))
                return
        self._db.execute("DELETE FROM message WHERE id = ?", (id_,))

    def _retry_stranded(self) -> None:
        for id_, reason in self._db.execute("SELECT id, death FROM message WHERE state = 'stranded'").fetchall():
            self._kill(id_, reason)

    def _forget_transient(self) -> None:
        # Queues of one replica: the replica was away, and catches up by itself when it starts.
        for name, arguments in self._db.execute("SELECT name, arguments FROM queue").fetchall():
            if _Queue.read(json.loads(arguments)).transient:
                for statement in (
                    "DELETE FROM message WHERE queue = ?",
                    "DELETE FROM binding WHERE queue = ?",
                    "DELETE FROM queue WHERE name = ?",
                ):
                    self._db.execute(statement, (name,))


def _takes(kind: str, pattern: str, routing_key: str) -> bool:
    if kind == "fanout":
        return True
    return matches(pattern, routing_key) if kind == "topic" else pattern == routing_key
