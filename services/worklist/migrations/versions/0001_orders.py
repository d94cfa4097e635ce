"""Orders, patients, worklist items, and the messaging tables."""

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
        "counters",
        sa.Column("name", sa.String(16), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
    op.create_table(
        "messages",
        sa.Column("id", row_id, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.String(63), nullable=True),
        sa.Column("source", sa.String(80), nullable=False),
        sa.Column("control_id", sa.String(199), nullable=False),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("received_at", time, nullable=False),
        sa.Column("raw", sa.LargeBinary, nullable=False),
        sa.Column("answer", sa.String(2), nullable=False),
        sa.Column("said", sa.Text, nullable=False),
        sa.Column("outcomes", sa.JSON, nullable=False),
        sa.Column("warnings", sa.JSON, nullable=False),
        sa.UniqueConstraint("source", "control_id", "digest", name="messages_business_key"),
    )
    op.create_index("messages_received", "messages", ["received_at"])
    op.create_table(
        "patients",
        sa.Column("id", row_id, primary_key=True, autoincrement=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("value", sa.String(199), nullable=False),
        sa.Column("issuer", sa.String(199), nullable=False),
        sa.Column("said", sa.JSON, nullable=False),
        sa.Column("merged_into", row_id, sa.ForeignKey("patients.id"), nullable=True),
        sa.Column("changed_at", time, nullable=False),
        sa.UniqueConstraint("tenant", "value", "issuer", name="patients_business_key"),
    )
    op.create_index("patients_merged", "patients", ["merged_into"])
    op.create_table(
        "merges",
        sa.Column("id", row_id, primary_key=True, autoincrement=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("kept_id", row_id, sa.ForeignKey("patients.id"), nullable=False),
        sa.Column("merged_id", row_id, sa.ForeignKey("patients.id"), nullable=False),
        sa.Column("source", sa.String(80), nullable=False),
        sa.Column("message", sa.String(255), nullable=False),
        sa.Column("merged_at", time, nullable=False),
        sa.Column("undone_at", time, nullable=True),
        sa.Column("undone_by", sa.String(80), nullable=True),
        sa.Column("reason", sa.Text, nullable=True),
    )
    op.create_index("merges_merged", "merges", ["merged_id"])
    op.create_index("merges_kept", "merges", ["kept_id"])
    op.create_table(
        "orders",
        sa.Column("id", row_id, primary_key=True, autoincrement=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("site", sa.String(63), nullable=False),
        sa.Column("patient_id", row_id, sa.ForeignKey("patients.id"), nullable=False),
        sa.Column("placer", sa.String(199), nullable=True),
        sa.Column("filler", sa.String(199), nullable=True),
        sa.Column("accession", sa.String(16), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("minted", sa.JSON, nullable=False),
        sa.Column("priority", sa.String(7), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("start", sa.String(14), nullable=False),
        sa.Column("told", sa.JSON, nullable=False),
        sa.Column("joined_into", row_id, sa.ForeignKey("orders.id"), nullable=True),
        sa.Column("placed_at", time, nullable=False),
        sa.Column("changed_at", time, nullable=False),
        sa.Column("floating", sa.Boolean, nullable=False),
    )
    op.create_index("orders_patient", "orders", ["patient_id"])
    op.create_index("orders_listed", "orders", ["tenant", "state", "start"])
    op.create_index("orders_study", "orders", ["study_instance_uid"])
    op.create_index("orders_accession", "orders", ["accession"])
    op.create_table(
        "order_numbers",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("kind", sa.String(9), primary_key=True),
        sa.Column("value", sa.String(199), primary_key=True),
        sa.Column("scope", sa.String(199), primary_key=True),
        sa.Column("order_id", row_id, sa.ForeignKey("orders.id"), primary_key=True),
    )
    op.create_index("order_numbers_order", "order_numbers", ["order_id"])
    op.create_table(
        "changes",
        sa.Column("id", row_id, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("source", sa.String(80), nullable=False),
        sa.Column("message", sa.String(255), nullable=False),
        sa.Column("part", sa.Integer, nullable=False),
        sa.Column("stamp", time, nullable=False),
        sa.Column("kind", sa.String(7), nullable=False),
        sa.Column("order_id", row_id, sa.ForeignKey("orders.id"), nullable=True),
        sa.Column("patient_id", row_id, sa.ForeignKey("patients.id"), nullable=True),
        sa.Column("body", sa.JSON, nullable=False),
        sa.UniqueConstraint("source", "message", "part", name="changes_business_key"),
    )
    op.create_index("changes_order", "changes", ["order_id"])
    op.create_index("changes_patient", "changes", ["patient_id"])
    op.create_table(
        "items",
        sa.Column("id", row_id, primary_key=True, autoincrement=False),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("site", sa.String(63), nullable=False),
        sa.Column("order_id", row_id, sa.ForeignKey("orders.id"), nullable=False),
        sa.Column("step_id", sa.String(64), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("performed", sa.String(12), nullable=True),
        sa.Column("start", sa.String(14), nullable=False),
        sa.Column("station_aets", sa.JSON, nullable=False),
        sa.Column("modality", sa.String(16), nullable=False),
        sa.Column("attributes", sa.JSON, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("changed_at", time, nullable=False),
    )
    op.create_index("items_revision", "items", ["revision"])
    op.create_index("items_order", "items", ["order_id"])
    op.create_table(
        "studies",
        sa.Column("id", row_id, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("site", sa.String(63), nullable=True),
        sa.Column("accession", sa.String(64), nullable=False),
        sa.Column("patient", sa.String(199), nullable=False),
        sa.Column("issuer", sa.String(199), nullable=False),
        sa.Column("modality", sa.String(16), nullable=False),
        sa.Column("order_id", row_id, sa.ForeignKey("orders.id"), nullable=True),
        sa.Column("matched_by", sa.String(10), nullable=True),
        sa.Column("contradicts", sa.Boolean, nullable=False),
        sa.Column("first_seen_at", time, nullable=False),
        sa.Column("completed_at", time, nullable=True),
        sa.UniqueConstraint("tenant", "study_instance_uid", name="studies_business_key"),
    )
    op.create_index("studies_accession", "studies", ["tenant", "accession"])
    op.create_index("studies_order", "studies", ["order_id"])
    op.create_index("studies_first_seen", "studies", ["first_seen_at"])
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
