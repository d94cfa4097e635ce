"""Deliveries, their items, what is known of destinations, and the messaging tables."""

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
        "deliveries",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("site", sa.String(63), nullable=True),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("destination", sa.String(63), nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("reason", sa.Text, nullable=True),
        sa.Column("lane", sa.SmallInteger, nullable=False),
        sa.Column("source_node", sa.Text, nullable=False),
        sa.Column("network_version", sa.Integer, nullable=False),
        sa.Column("study_version", sa.Integer, nullable=True),
        sa.Column("expected_count", sa.Integer, nullable=True),
        sa.Column("expected_hash", sa.String(64), nullable=True),
        sa.Column("completed_version", sa.Integer, nullable=True),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("next_attempt_at", time, nullable=True),
        sa.Column("requested_at", time, nullable=False),
        sa.Column("completed_at", time, nullable=True),
        sa.Column("traceparent", sa.String(64), nullable=True),
        sa.Column("lease_owner", sa.String(128), nullable=True),
        sa.Column("lease_until", time, nullable=True),
        sa.UniqueConstraint("tenant", "study_instance_uid", "destination", name="deliveries_business_key"),
    )
    op.create_index("deliveries_due", "deliveries", ["destination", "state", "lane", "next_attempt_at"])
    op.create_index("deliveries_listed", "deliveries", ["requested_at", "id"])
    op.create_table(
        "items",
        sa.Column("id", row_id, primary_key=True, autoincrement=True),
        sa.Column("delivery_id", sa.String(32), sa.ForeignKey("deliveries.id"), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("content_hash", sa.String(64), nullable=False),
        sa.Column("transform", sa.String(63), nullable=False),
        sa.Column("sop_class_uid", sa.String(64), nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(64), nullable=False),
        sa.Column("object_key", sa.Text, nullable=False),
        sa.Column("size", sa.BigInteger, nullable=False),
        sa.Column("state", sa.String(8), nullable=False),
        sa.Column("status", sa.String(16), nullable=True),
        sa.Column("reason", sa.Text, nullable=True),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("refusals", sa.Integer, nullable=False, server_default="0"),
        sa.Column("next_attempt_at", time, nullable=True),
        sa.Column("sent_at", time, nullable=True),
        sa.UniqueConstraint("delivery_id", "sop_instance_uid", "content_hash", "transform", name="items_business_key"),
    )
    op.create_index("items_due", "items", ["delivery_id", "state", "next_attempt_at"])
    op.create_table(
        "destinations",
        sa.Column("key", sa.String(63), primary_key=True),
        sa.Column("failures", sa.Integer, nullable=False, server_default="0"),
        sa.Column("retry_at", time, nullable=True),
        sa.Column("problem", sa.Text, nullable=True),
        sa.Column("reached_at", time, nullable=True),
        sa.Column("failed_at", time, nullable=True),
    )
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
