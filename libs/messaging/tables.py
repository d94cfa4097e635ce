"""The tables that messaging needs in each service's own database."""

from dataclasses import dataclass

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
)


@dataclass(frozen=True)
class MessagingTables:
    """The tables of one service.

    Attributes
    ----------
    outbox
        Events whose transaction has committed and that the broker has not confirmed yet.
    inbox
        Events that were processed, so that a repeated one is recognised.
    dead_letter
        Messages that could not be processed, until someone replays them; kept afterwards.
    sequence
        The last number that each source has given to an event.
    """

    outbox: Table
    inbox: Table
    dead_letter: Table
    sequence: Table


def messaging_tables(metadata: MetaData) -> MessagingTables:
    """Add the four tables to a service's metadata. All times are UTC."""
    # SQLite numbers rows by itself only where the type is exactly INTEGER.
    row_id = BigInteger().with_variant(Integer, "sqlite")
    outbox = Table(
        "outbox",
        metadata,
        Column("id", row_id, primary_key=True, autoincrement=True),
        Column("message_id", String(64), nullable=False),
        Column("exchange", String(128), nullable=False),
        Column("routing_key", String(255), nullable=False),
        Column("type", String(128), nullable=True),
        Column("content_type", String(128), nullable=False),
        Column("headers", JSON, nullable=False),
        Column("body", LargeBinary, nullable=False),
        Column("created_at", DateTime(timezone=True), nullable=False),
        Column("attempts", Integer, nullable=False, server_default="0"),
        # A row is taken by moving this time into the future: a relay that dies leaves nothing to clean up.
        Column("available_at", DateTime(timezone=True), nullable=False),
        Column("leased_by", String(128), nullable=True),
        Index("outbox_available", "available_at", "id"),
    )
    inbox = Table(
        "inbox",
        metadata,
        Column("queue", String(128), primary_key=True),
        Column("source", String(128), primary_key=True),
        Column("event_id", String(64), primary_key=True),
        Column("processed_at", DateTime(timezone=True), nullable=False),
        Index("inbox_processed_at", "processed_at"),
    )
    dead_letter = Table(
        "dead_letter",
        metadata,
        Column("id", row_id, primary_key=True, autoincrement=True),
        # The same message delivered twice from the dead-letter queue makes one row.
        Column("fingerprint", String(64), nullable=False, unique=True),
        Column("queue", String(128), nullable=False),
        Column("message_id", String(64), nullable=True),
        Column("source", String(128), nullable=True),
        Column("type", String(128), nullable=True),
        Column("subject", String(255), nullable=True),
        Column("tenant", String(63), nullable=True),
        Column("reason", Text, nullable=False),
        Column("attempts", SmallInteger, nullable=False),
        Column("deaths", JSON, nullable=False),
        Column("headers", JSON, nullable=False),
        Column("content_type", String(128), nullable=False),
        Column("body", LargeBinary, nullable=False),
        Column("died_at", DateTime(timezone=True), nullable=False),
        Column("replayed_at", DateTime(timezone=True), nullable=True),
    )
    sequence = Table(
        "sequence",
        metadata,
        Column("source", String(128), primary_key=True),
        Column("value", BigInteger, nullable=False),
    )
    return MessagingTables(outbox, inbox, dead_letter, sequence)
