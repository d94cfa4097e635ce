"""Tables of audit."""

from sqlalchemy import BigInteger, Column, Index, Integer, LargeBinary, MetaData, String, Table, UniqueConstraint

from libs.messaging.tables import messaging_tables
from libs.storage.instant import Instant

metadata = MetaData()
messaging = messaging_tables(metadata)
_row_id = BigInteger().with_variant(Integer, "sqlite")

#: Appended to only: triggers refuse everything else. `body` is the event as it came, byte for byte, and may hold
#: personal data, which the other columns do not.
records = Table(
    "records",
    metadata,
    Column("seq", _row_id, primary_key=True, autoincrement=True),
    Column("source", String(128), nullable=False),
    Column("event_id", String(64), nullable=False),
    Column("sequence", BigInteger, nullable=False),
    Column("type", String(128), nullable=False),
    Column("time", Instant, nullable=False),
    Column("recorded_at", Instant, nullable=False),
    Column("tenant", String(63), nullable=False),
    Column("site", String(63), nullable=True),
    Column("subject", String(255), nullable=False),
    Column("study_instance_uid", String(64), nullable=True),
    Column("sha256", String(64), nullable=False),
    Column("body", LargeBinary, nullable=False),
    UniqueConstraint("source", "event_id", name="records_event"),
    Index("records_study", "study_instance_uid", "time"),
    Index("records_time", "time", "seq"),
)

#: The number that the next event of each producer should have.
producers = Table(
    "producers",
    metadata,
    Column("source", String(128), primary_key=True),
    Column("next_sequence", BigInteger, nullable=False),
)

#: Numbers that were passed over: events that are late, or lost.
gaps = Table(
    "gaps",
    metadata,
    Column("source", String(128), primary_key=True),
    Column("first", BigInteger, primary_key=True),
    Column("last", BigInteger, nullable=False),
    Column("since", Instant, nullable=False),
)
