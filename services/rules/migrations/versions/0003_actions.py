"""Holds, tags, what is put aside, timers, what was delivered, the health of destinations, and what decisions saw.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.add_column("studies", sa.Column("unmatched_at", time, nullable=True))
    unmatched = sa.text("unmatched_at IS NOT NULL")
    op.create_index(
        "studies_unmatched", "studies", ["unmatched_at"], postgresql_where=unmatched, sqlite_where=unmatched
    )
    op.add_column("instances", sa.Column("aside", sa.Text, nullable=True))
    op.add_column("requests", sa.Column("hold", sa.JSON, nullable=True))
    op.add_column("decisions", sa.Column("occasion", sa.String(16), nullable=True))
    op.add_column("decisions", sa.Column("inputs_hash", sa.String(64), nullable=True))
    op.add_column("decisions", sa.Column("inputs", sa.JSON, nullable=True))
    op.create_table(
        "tags",
        sa.Column("study_id", row_id, sa.ForeignKey("studies.id"), primary_key=True),
        sa.Column("name", sa.String(63), primary_key=True),
        sa.Column("value", sa.Text, nullable=False),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("set_at", time, nullable=False),
    )
    op.create_table(
        "asides",
        sa.Column("id", sa.String(40), primary_key=True),
        sa.Column("study_id", row_id, sa.ForeignKey("studies.id"), nullable=False),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("state", sa.String(10), nullable=False),
        sa.Column("told", sa.Integer, nullable=False),
        sa.Column("study_version", sa.Integer, nullable=True),
        sa.Column("opened_at", time, nullable=False),
        sa.UniqueConstraint("study_id", "rule", name="asides_business_key"),
    )
    op.create_table(
        "timers",
        sa.Column("id", row_id, primary_key=True, autoincrement=True),
        sa.Column("study_id", row_id, sa.ForeignKey("studies.id"), nullable=False),
        sa.Column("rule", sa.Text, nullable=False),
        sa.Column("study_version", sa.Integer, nullable=False),
        sa.Column("due_at", time, nullable=False),
        sa.Column("last_at", time, nullable=True),
        sa.UniqueConstraint("study_id", "rule", name="timers_business_key"),
    )
    op.create_index("timers_due", "timers", ["due_at"])
    op.create_table(
        "delivered",
        sa.Column("study_id", row_id, sa.ForeignKey("studies.id"), primary_key=True),
        sa.Column("destination", sa.String(63), primary_key=True),
        sa.Column("study_version", sa.Integer, nullable=False),
    )
    op.create_table(
        "destinations",
        sa.Column("key", sa.String(63), primary_key=True),
        sa.Column("healthy", sa.Boolean, nullable=False),
        sa.Column("problem", sa.Text, nullable=True),
        sa.Column("since", time, nullable=False),
    )
