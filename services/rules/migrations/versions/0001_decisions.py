"""What is known of studies, what was decided and requested, and the messaging tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "studies",
        sa.Column("id", row_id, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("site", sa.String(63), nullable=True),
        sa.Column("waiting", sa.Boolean, nullable=False),
        sa.UniqueConstraint("tenant", "study_instance_uid", name="studies_business_key"),
    )
    op.create_index("studies_waiting", "studies", ["waiting"])
    op.create_table(
        "instances",
        sa.Column("id", row_id, primary_key=True, autoincrement=True),
        sa.Column("study_id", row_id, sa.ForeignKey("studies.id"), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("sop_class_uid", sa.String(64), nullable=False),
        sa.Column("series_instance_uid", sa.String(64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(64), nullable=False),
        sa.Column("object_key", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("received_at", time, nullable=False),
        sa.Column("source", sa.JSON, nullable=False),
        sa.Column("attributes", sa.JSON, nullable=False),
        sa.Column("headers_key", sa.Text, nullable=False),
        sa.Column("network_version", sa.Integer, nullable=True),
        sa.UniqueConstraint("study_id", "sop_instance_uid", "content_hash", name="instances_business_key"),
    )
    op.create_table(
        "completions",
        sa.Column("id", row_id, primary_key=True, autoincrement=True),
        sa.Column("study_id", row_id, sa.ForeignKey("studies.id"), nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("completed", sa.JSON, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("network_version", sa.Integer, nullable=True),
        sa.UniqueConstraint("study_id", "version", name="completions_business_key"),
    )
    op.create_table(
        "requests",
        sa.Column("id", row_id, primary_key=True, autoincrement=True),
        sa.Column("instance_id", row_id, sa.ForeignKey("instances.id"), nullable=False),
        sa.Column("destination", sa.String(63), nullable=False),
        sa.Column("transform", sa.String(63), nullable=True),
        sa.Column("priority", sa.String(7), nullable=False),
        sa.Column("rules", sa.JSON, nullable=False),
        sa.Column("network_version", sa.Integer, nullable=False),
        sa.UniqueConstraint("instance_id", "destination", name="requests_business_key"),
    )
    op.create_table(
        "decisions",
        sa.Column("id", row_id, primary_key=True, autoincrement=True),
        sa.Column("study_id", row_id, sa.ForeignKey("studies.id"), nullable=False),
        sa.Column("decided_at", time, nullable=False),
        sa.Column("trigger", sa.String(8), nullable=False),
        sa.Column("decided", sa.JSON, nullable=False),
    )
    op.create_index("decisions_study", "decisions", ["study_id", "id"])
    _messaging()


def _messaging() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", row_id, primary_key=True, autoincrement=True),
        sa.Column("message_id", sa.String(64), nullable=False),
        sa.Column("exchange", sa.String(128), nullable=False),
        sa.Column("routing_key", sa.String(255), nullable=False),
        sa.Column("type", sa.String(128), nullable=True),
        sa.Column("content_type", sa.String(128), nullable=False),
        sa.Column("headers", sa.JSON, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("created_at", time, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("available_at", time, nullable=False),
        sa.Column("leased_by", sa.String(128), nullable=True),
    )
    op.create_index("outbox_available", "outbox", ["available_at", "id"])
    op.create_table(
        "inbox",
        sa.Column("queue", sa.String(128), primary_key=True),
        sa.Column("source", sa.String(128), primary_key=True),
        sa.Column("event_id", sa.String(64), primary_key=True),
        sa.Column("processed_at", time, nullable=False),
    )
    op.create_index("inbox_processed_at", "inbox", ["processed_at"])
    op.create_table(
        "dead_letter",
        sa.Column("id", row_id, primary_key=True, autoincrement=True),
        sa.Column("fingerprint", sa.String(64), nullable=False, unique=True),
        sa.Column("queue", sa.String(128), nullable=False),
        sa.Column("message_id", sa.String(64), nullable=True),
        sa.Column("source", sa.String(128), nullable=True),
        sa.Column("type", sa.String(128), nullable=True),
        sa.Column("subject", sa.String(255), nullable=True),
        sa.Column("tenant", sa.String(63), nullable=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("attempts", sa.SmallInteger, nullable=False),
        sa.Column("deaths", sa.JSON, nullable=False),
        sa.Column("headers", sa.JSON, nullable=False),
        sa.Column("content_type", sa.String(128), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("died_at", time, nullable=False),
        sa.Column("replayed_at", time, nullable=True),
    )
    op.create_table(
        "sequence",
        sa.Column("source", sa.String(128), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
