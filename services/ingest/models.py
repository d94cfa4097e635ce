"""The tables of ingest. All times are UTC."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    DateTime,
    Float,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
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
    # What the manifest is named after that its lease may have put into the object store; see `versions.lease_due`.
    Column("attempt", String(32), nullable=True),
    # Sum of the instances' sizes in bytes, and their modalities.
    Column("size", BigInteger, nullable=False, server_default="0"),
    Column("modalities", JSON, nullable=True),
    # Number of Study Related Instances (0020,1208), the largest that was announced.
    Column("announced", Integer, nullable=True),
    # When the first instance that no version has arrived: the wait for completion is counted from here.
    Column("pending_since", DateTime(timezone=True), nullable=True),
    # When something of it arrived last on an association that was broken off; evidence unless more came since.
    Column("broken_at", DateTime(timezone=True), nullable=True),
    # Signs and score of the last version.
    Column("evidence", JSON, nullable=True),
    Column("score", Float, nullable=True),
    # Last version that rules have decided on, and the version of the definition that did.
    Column("decided_version", Integer, nullable=False, server_default="0"),
    # Last version that rules or people wanted nowhere, and why.
    Column("discarded_version", Integer, nullable=False, server_default="0"),
    Column("discarded_why", Text, nullable=True),
    # When the copy was removed by retention; none if it is there, or came again.
    Column("expired_at", DateTime(timezone=True), nullable=True),
    UniqueConstraint("tenant", "study_uid", name="studies_identity"),
    Index("studies_due", "due_at"),
    # Those whose copy is kept, as retention looks at them; what expired stays as a row for ever.
    Index(
        "studies_kept",
        "last_arrival",
        "id",
        sqlite_where=text("instance_count > 0"),
        postgresql_where=text("instance_count > 0"),
    ),
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

series = Table(
    "series",
    metadata,
    Column("study_id", _ROW, ForeignKey("studies.id"), primary_key=True),
    Column("series_uid", _UID, primary_key=True),
    Column("modality", String(16), nullable=True),
    Column("instance_count", Integer, nullable=False, server_default="0"),
    Column("size", BigInteger, nullable=False, server_default="0"),
    # Instance numbers (0020,0013) as sorted ranges [[1, 20], [22, 22]]; none once they are of no use.
    Column("numbers", JSON, nullable=True),
    # How many instances the series was said to have, the largest number that was announced.
    Column("announced", Integer, nullable=True),
)

# Contents that others took the place of, by the policy new-version: kept, and named by the manifests of their time.
replaced = Table(
    "replaced",
    metadata,
    Column("id", _ROW, primary_key=True, autoincrement=True),
    Column("study_id", _ROW, ForeignKey("studies.id"), nullable=False),
    Column("sop_uid", _UID, nullable=False),
    Column("content_hash", String(64), nullable=False),
    Column("object_key", String(512), nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("replaced_at", DateTime(timezone=True), nullable=False),
    Index("replaced_study", "study_id"),
)

# Other content under a known SOP Instance UID: each arrival of one, whatever was done with it.
conflicts = Table(
    "conflicts",
    metadata,
    Column("id", _ARRIVAL, primary_key=True),
    Column("study_id", _ROW, ForeignKey("studies.id"), nullable=False),
    Column("sop_uid", _UID, nullable=False),
    Column("policy", String(16), nullable=False),
    Column("kept_hash", String(64), nullable=False),
    Column("other_hash", String(64), nullable=False),
    Column("source", JSON, nullable=False),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Index("conflicts_study", "study_id"),
)

# Who each Patient ID was said to be: name and birth date as compared, never merged.
patients = Table(
    "patients",
    metadata,
    Column("id", _ROW, primary_key=True, autoincrement=True),
    Column("tenant", _TENANT, nullable=False),
    # Issuer of Patient ID (0010,0021), else that of the node; empty if neither is known.
    Column("issuer", String(64), nullable=False),
    Column("patient_id", String(64), nullable=False),
    Column("name_key", Text, nullable=False),
    Column("birth_date", String(8), nullable=False),
    Column("study_id", _ROW, ForeignKey("studies.id"), nullable=False),
    Column("seen_at", DateTime(timezone=True), nullable=False),
    UniqueConstraint("tenant", "issuer", "patient_id", "name_key", "birth_date", "study_id", name="patients_identity"),
    Index("patients_study", "study_id"),
)

# What a person should look at in a study.
flags = Table(
    "flags",
    metadata,
    Column("id", _ROW, primary_key=True, autoincrement=True),
    Column("study_id", _ROW, ForeignKey("studies.id"), nullable=False),
    Column("kind", String(32), nullable=False),
    Column("fields", JSON, nullable=False),
    Column("other_study_uid", _UID, nullable=False),
    Column("raised_at", DateTime(timezone=True), nullable=False),
    Column("cleared_at", DateTime(timezone=True), nullable=True),
    Column("cleared_by", String(128), nullable=True),
    UniqueConstraint("study_id", "kind", "other_study_uid", name="flags_identity"),
)

# Where a study goes, as far as ingest needs to know: what is not delivered never goes.
deliveries = Table(
    "deliveries",
    metadata,
    Column("tenant", _TENANT, primary_key=True),
    Column("study_uid", _UID, primary_key=True),
    Column("destination", String(63), primary_key=True),
    # Last version of the study that this destination was to get, and the last that it has.
    Column("wanted_version", Integer, nullable=False, server_default="0"),
    Column("done_version", Integer, nullable=False, server_default="0"),
    # Last version that need not go there any more: another destination has it instead, or, with none, a person
    # cancelled it. Of several words on it that with the highest number of egress counts.
    Column("waived_version", Integer, nullable=False, server_default="0"),
    Column("instead", String(63), nullable=True),
    Column("word", BigInteger, nullable=False, server_default="0"),
    Column("changed_at", DateTime(timezone=True), nullable=False),
)

# Performed procedure steps (MPPS) of studies, which may come before the first image: each as it was said last.
procedures = Table(
    "procedures",
    metadata,
    Column("tenant", _TENANT, primary_key=True),
    Column("study_uid", _UID, primary_key=True),
    Column("mpps_uid", _UID, primary_key=True),
    # in-progress, completed, discontinued.
    Column("state", String(12), nullable=False),
    # Instances that it says were made of this study, if it says; and the same by series.
    Column("instance_count", Integer, nullable=True),
    Column("series", JSON, nullable=False),
    Column("changed_at", DateTime(timezone=True), nullable=False),
)

# Objects that no row names any more: noted in the transaction that let go of them, removed after it.
garbage = Table(
    "garbage",
    metadata,
    Column("object_key", String(512), primary_key=True),
    Column("noted_at", DateTime(timezone=True), nullable=False),
)

arrivals = Table(
    "arrivals",
    metadata,
    Column("id", _ARRIVAL, primary_key=True),
    Column("study_id", _ROW, ForeignKey("studies.id"), nullable=False),
    Column("sop_uid", _UID, nullable=False),
    # stored, duplicate (the same content was there already), or replaced (it took the place of another content).
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
    # Empty when the bytes are not kept any more.
    Column("object_key", String(512), nullable=False),
    Column("content_hash", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
    # A sender that is told a failure sends again: the same bytes are kept once and counted.
    Column("times", Integer, nullable=False, server_default="1"),
    Column("received_at", DateTime(timezone=True), nullable=False),
    Column("last_received_at", DateTime(timezone=True), nullable=False),
    # open, releasing, released, discarded; kept-first: closed by the policy of that name. See `holding`.
    Column("state", String(16), nullable=False, server_default="open"),
    Column("resolved_at", DateTime(timezone=True), nullable=True),
    Column("resolved_by", String(128), nullable=True),
    Column("resolution", JSON, nullable=True),
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
