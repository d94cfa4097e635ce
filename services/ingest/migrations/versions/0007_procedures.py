"""Performed procedure steps (MPPS), as evidence that a study is complete.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "procedures",
        sa.Column("tenant", sa.String(63), primary_key=True),
        sa.Column("study_uid", sa.String(64), primary_key=True),
        sa.Column("mpps_uid", sa.String(64), primary_key=True),
        sa.Column("state", sa.String(12), nullable=False),
        sa.Column("instance_count", sa.Integer, nullable=True),
        sa.Column("series", sa.JSON, nullable=False),
        sa.Column("changed_at", sa.DateTime(timezone=True), nullable=False),
    )
