"""Performed procedure steps, the items that they are, and to whom they are forwarded.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "mpps",
        sa.Column("id", row_id, primary_key=True, autoincrement=True),
        sa.Column("tenant", sa.String(63), nullable=False),
        sa.Column("site", sa.String(63), nullable=False),
        sa.Column("node", sa.String(63), nullable=False),
        sa.Column("sop_instance_uid", sa.String(64), nullable=False),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("station_aet", sa.String(16), nullable=False),
        sa.Column("modality", sa.String(16), nullable=False),
        sa.Column("patient", sa.String(255), nullable=False),
        sa.Column("attributes", sa.JSON, nullable=False),
        sa.Column("lapses", sa.JSON, nullable=False),
        sa.Column("started_at", time, nullable=False),
        sa.Column("ended_at", time, nullable=True),
        sa.Column("instance_count", sa.Integer, nullable=False),
        sa.Column("wrong_entry", sa.Boolean, nullable=False),
        sa.Column("repeated", sa.Integer, nullable=False),
        sa.Column("created_at", time, nullable=False),
        sa.Column("changed_at", time, nullable=False),
        sa.UniqueConstraint("tenant", "sop_instance_uid", name="mpps_business_key"),
    )
    op.create_index("mpps_changed", "mpps", ["changed_at"])
    op.create_index("mpps_state", "mpps", ["state", "changed_at"])
    op.create_table(
        "mpps_items",
        sa.Column("mpps_id", row_id, sa.ForeignKey("mpps.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("study_instance_uid", sa.String(64), nullable=False),
        sa.Column("accession", sa.String(64), nullable=False),
        sa.Column("step_id", sa.String(64), nullable=False),
        sa.Column("referenced", sa.JSON, nullable=False),
        sa.Column("item_id", row_id, sa.ForeignKey("items.id"), nullable=True),
        sa.Column("matched_by", sa.String(10), nullable=True),
        sa.Column("contradicts", sa.Boolean, nullable=False),
    )
    op.create_index("mpps_items_item", "mpps_items", ["item_id"])
    op.create_index("mpps_items_study", "mpps_items", ["study_instance_uid"])
    op.create_index("mpps_items_accession", "mpps_items", ["accession"])
    op.create_table(
        "mpps_messages",
        sa.Column("mpps_id", row_id, sa.ForeignKey("mpps.id"), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True),
        sa.Column("calling_aet", sa.String(16), nullable=False),
        sa.Column("received_at", time, nullable=False),
        sa.Column("transfer_syntax_uid", sa.String(64), nullable=False),
        sa.Column("dataset", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "mpps_forwards",
        sa.Column("mpps_id", row_id, sa.ForeignKey("mpps.id"), primary_key=True),
        sa.Column("node", sa.String(63), primary_key=True),
        sa.Column("sent", sa.Integer, nullable=False),
        sa.Column("state", sa.String(6), nullable=False),
        sa.Column("failures", sa.Integer, nullable=False),
        sa.Column("due_at", time, nullable=False),
        sa.Column("leased_by", sa.String(128), nullable=True),
        sa.Column("leased_until", time, nullable=True),
        sa.Column("problem", sa.Text, nullable=True),
        sa.Column("changed_at", time, nullable=False),
    )
    op.create_index("mpps_forwards_due", "mpps_forwards", ["state", "due_at"])
