"""The tables of ingest. All times are UTC."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from libs.messaging.tables import messaging_tables

metadata = MetaData()
messaging = messaging_tables(metadata)

# SQLite numbers rows by itself only where the type is exactly INTEGER.
_ROW = BigInteger().with_variant(Integer, "sqlite")
_UID = String(64)
_TENANT = String(63)
_ARRIVAL = String(64)

studies = Table(
    "studies",
    metadata,
    Column("id", _ROW, primary_key=True, autoincrement=True),
    Column("tenant", _TENANT, nullable=False),
    Column("study_uid", _UID, nullable=False),
    Column("first_arrival", DateTime(timezone=True), nullable=False),
    Column("first_arrival_id", _ARRIVAL, nullable=False),
    Column("last_arrival", DateTime(timezone=True), nullable=False),
    Column("source", JSON, nullable=False),
    Column("sites", JSON, nullable=False),
    Column("instance_count", Integer, nullable=False, server_default="0"),
    Column("series_count", Integer, nullable=False, server_default="0"),
    # Counts every batch that added instances: a version stands only if it did not move meanwhile.
    Column("revision", Integer, nullable=False, server_default="0"),
    Column("version", Integer, nullable=False, server_default="0"),
    Column("version_at", DateTime(timezone=True), nullable=True),
    Column("version_count", Integer, nullable=False, server_default="0"),
    Column("version_hash", String(64), nullable=True),
    Column("manifest_key", String(512), nullable=True),
    Column("attributes", JSON, nullable=True),
    # When the study may be complete; none if the last version has everything.
    Column("due_at", DateTime(timezone=True), nullable=True),
    Column("leased_by", String(128), nullable=True),
    Column("leased_until", DateTime(timezone=True), nullable=True),
    UniqueConstraint("tenant", "study_uid", name="studies_identity"),
    Index("studies_due", "due_at"),
    Index("studies_last_arrival", "last_arrival"),
)

instances = Table(
    "instances",
    metadata,
    Column("id", _ROW, primary_key=True, autoincrement=True),
    Column("study_id", _ROW, ForeignKey("studies.id"), nullable=False),
    Column("tenant", _TENANT, nullable=False),
    Column("sop_uid", _UID, nullable=False),
    Column("sop_class_uid", _UID, nullable=False),
    Column("series_uid", _UID, nullable=False),
    Column("transfer_syntax_uid", _UID, nullable=False),
    Column("content_hash", String(64), nullable=False),
    Column("object_key", String(512), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("batch_id", String(64), nullable=False),
    Column("attributes", JSON, nullable=False),
    UniqueConstraint("tenant", "sop_uid", name="instances_identity"),
    Index("instances_study", "study_id"),
)

arrivals = Table(
    "arrivals",
    metadata,
    Column("id", _ARRIVAL, primary_key=True),
    Column("study_id", _ROW, ForeignKey("studies.id"), nullable=False),
    Column("sop_uid", _UID, nullable=False),
    # stored, or duplicate: the same content was there already.
    Column("outcome", String(16), nullable=False),
    Column("association_id", _ARRIVAL, nullable=False),
    Column("source", JSON, nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Index("arrivals_study", "study_id"),
)

batches = Table(
    "batches",
    metadata,
    Column("id", String(64), primary_key=True),
    Column("study_id", _ROW, ForeignKey("studies.id"), nullable=False),
    Column("headers_key", String(512), nullable=False),
    Column("headers_hash", String(64), nullable=False),
    Column("headers_size", BigInteger, nullable=False),
    Column("indexed_at", DateTime(timezone=True), nullable=False),
)

quarantine = Table(
    "quarantine",
    metadata,
    Column("id", _ARRIVAL, primary_key=True),
    Column("tenant", _TENANT, nullable=False),
    Column("site", String(63), nullable=False),
    Column("reason", String(32), nullable=False),
    Column("detail", Text, nullable=False),
    Column("study_uid", _UID, nullable=True),
    Column("sop_uid", _UID, nullable=True),
    Column("source", JSON, nullable=False),
    Column("transfer_syntax_uid", _UID, nullable=False),
    Column("object_key", String(512), nullable=False),
    Column("content_hash", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    # A sender that is told a failure sends again: the same bytes are kept once and counted.
    Column("times", Integer, nullable=False, server_default="1"),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("last_received_at", DateTime(timezone=True), nullable=False),
    UniqueConstraint("tenant", "content_hash", "reason", name="quarantine_identity"),
    Index("quarantine_received", "received_at"),
)

# What a replica still has in hand for a study, so that no other replica calls the study complete.
open_work = Table(
    "open_work",
    metadata,
    Column("replica", String(128), primary_key=True),
    Column("tenant", _TENANT, primary_key=True),
    Column("study_uid", _UID, primary_key=True),
    Column("renewed_at", DateTime(timezone=True), nullable=False),
)

# With ack=object-store: what was acknowledged and is not indexed, should this replica's disk be lost.
received = Table(
    "received",
    metadata,
    Column("id", _ARRIVAL, primary_key=True),
    Column("replica", String(128), nullable=False),
    Column("tenant", _TENANT, nullable=False),
    Column("study_uid", _UID, nullable=False),
    Column("object_key", String(512), nullable=False),
    Column("renewed_at", DateTime(timezone=True), nullable=False),
    Index("received_study", "tenant", "study_uid"),
    Index("received_replica", "replica"),
)
