"""Tables of the first release.

Revision ID: 0001
Revises:
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

_ROW = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "dead_letter",
        sa.Column("id", _ROW, primary_key=True, autoincrement=True),
        sa.Column("fingerprint", sa.String(64), nullable=False, unique=True),
        sa.Column("queue", sa.String(128), nullable=False),
        sa.Column("message_id", sa.String(64), nullable=True),
        sa.Column("source", sa.String(128), nullable=True),
        sa.Column("type", sa.String(128), nullable=True),
        sa.Column("subject", sa.String(255), nullable=True),
        sa.Column("tenant", sa.String(63), nullable=True),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("attempts", sa.SmallInteger(), nullable=False),
        sa.Column("deaths", sa.JSON(), nullable=False),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("content_type", sa.String(128), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("died_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("replayed_at", sa.DateTime(timezone=True), nullable=True),
    )
    op.create_table(
        "inbox",
        sa.Column("queue", sa.String(128), primary_key=True),
        sa.Column("source", sa.String(128), primary_key=True),
        sa.Column("event_id", sa.String(64), primary_key=True),
        sa.Column("processed_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("inbox_processed_at", "inbox", ["processed_at"])
    op.create_table(
        "open_work",
        sa.Column("replica", sa.String(128), primary_key=True),
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("study_uid", sa.String(64), primary_key=True),
        sa.Column("renewed_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "outbox",
        sa.Column("id", _ROW, primary_key=True, autoincrement=True),
        sa.Column("message_id", sa.String(64), nullable=False),
        sa.Column("exchange", sa.String(128), nullable=False),
        sa.Column("routing_key", sa.String(255), nullable=False),
        sa.Column("type", sa.String(128), nullable=True),
        sa.Column("content_type", sa.String(128), nullable=False),
        sa.Column("headers", sa.JSON(), nullable=False),
        sa.Column("body", sa.LargeBinary(), nullable=False),
        sa.Column("created_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("attempts", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("available_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("leased_by", sa.String(128), nullable=True),
    )
    op.create_index("outbox_available", "outbox", ["available_at", "id"])
    op.create_table(
        "quarantine",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("site", sa.String(63), nullable=False),
        sa.Column("reason", sa.String(32), nullable=False),
        sa.Column("detail", sa.Text(), nullable=False),
        sa.Column("study_uid", sa.String(64), nullable=True),
        sa.Column("sop_uid", sa.String(64), nullable=True),
        sa.Column("source", sa.JSON(), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(64), nullable=False),
        sa.Column("object_key", sa.String(512), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("times", sa.Integer(), nullable=False, server_default="1"),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("last_received_at", sa.DateTime(timezone=True), nullable=False),
        sa.UniqueConstraint("tenant", "content_hash", "reason", name="quarantine_identity"),
    )
    op.create_index("quarantine_received", "quarantine", ["received_at"])
    op.create_table(
        "received",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("replica", sa.String(128), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("study_uid", sa.String(64), nullable=False),
        sa.Column("object_key", sa.String(512), nullable=False),
        sa.Column("renewed_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("received_replica", "received", ["replica"])
    op.create_index("received_study", "received", ["tenant", "study_uid"])
    op.create_table(
        "sequence",
        sa.Column("source", sa.String(128), primary_key=True),
        sa.Column("value", sa.BigInteger(), nullable=False),
    )
    op.create_table(
        "studies",
        sa.Column("id", _ROW, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("study_uid", sa.String(64), nullable=False),
        sa.Column("first_arrival", sa.DateTime(timezone=True), nullable=False),
        sa.Column("first_arrival_id", sa.String(64), nullable=False),
        sa.Column("last_arrival", sa.DateTime(timezone=True), nullable=False),
        sa.Column("source", sa.JSON(), nullable=False),
        sa.Column("sites", sa.JSON(), nullable=False),
        sa.Column("instance_count", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("series_count", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("revision", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("version", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("version_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("version_count", sa.Integer(), nullable=False, server_default="0"),
        sa.Column("version_hash", sa.String(64), nullable=True),
        sa.Column("manifest_key", sa.String(512), nullable=True),
        sa.Column("attributes", sa.JSON(), nullable=True),
        sa.Column("due_at", sa.DateTime(timezone=True), nullable=True),
        sa.Column("leased_by", sa.String(128), nullable=True),
        sa.Column("leased_until", sa.DateTime(timezone=True), nullable=True),
        sa.UniqueConstraint("tenant", "study_uid", name="studies_identity"),
    )
    op.create_index("studies_due", "studies", ["due_at"])
    op.create_index("studies_last_arrival", "studies", ["last_arrival"])
    op.create_table(
        "arrivals",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("study_id", _ROW, sa.ForeignKey("studies.id"), nullable=False),
        sa.Column("sop_uid", sa.String(64), nullable=False),
        sa.Column("outcome", sa.String(16), nullable=False),
        sa.Column("association_id", sa.String(64), nullable=False),
        sa.Column("source", sa.JSON(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_index("arrivals_study", "arrivals", ["study_id"])
    op.create_table(
        "batches",
        sa.Column("id", sa.String(64), primary_key=True),
        sa.Column("study_id", _ROW, sa.ForeignKey("studies.id"), nullable=False),
        sa.Column("headers_key", sa.String(512), nullable=False),
        sa.Column("headers_hash", sa.String(64), nullable=False),
        sa.Column("headers_size", sa.BigInteger(), nullable=False),
        sa.Column("indexed_at", sa.DateTime(timezone=True), nullable=False),
    )
    op.create_table(
        "instances",
        sa.Column("id", _ROW, primary_key=True, autoincrement=True),
        sa.Column("study_id", _ROW, sa.ForeignKey("studies.id"), nullable=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("sop_uid", sa.String(64), nullable=False),
        sa.Column("sop_class_uid", sa.String(64), nullable=False),
        sa.Column("series_uid", sa.String(64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(64), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("object_key", sa.String(512), nullable=False),
        sa.Column("size", sa.BigInteger(), nullable=False),
        sa.Column("received_at", sa.DateTime(timezone=True), nullable=False),
        sa.Column("batch_id", sa.String(64), nullable=False),
        sa.Column("attributes", sa.JSON(), nullable=False),
        sa.UniqueConstraint("tenant", "sop_uid", name="instances_identity"),
    )
    op.create_index("instances_study", "instances", ["study_id"])


def downgrade() -> None:
    raise NotImplementedError("there is nothing before the first release: restore a backup instead")
