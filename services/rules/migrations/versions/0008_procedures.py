"""Procedure steps that modalities have completed.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")


def upgrade() -> None:
    op.create_table(
        "procedures",
        sa.Column("study_id", row_id, sa.ForeignKey("studies.id"), primary_key=True),
        sa.Column("mpps_instance_uid", sa.String(64), primary_key=True),
        sa.Column("facts", sa.JSON, nullable=False),
        sa.Column("source", sa.JSON, nullable=True),
        sa.Column("ended_at", sa.DateTime(timezone=True), nullable=False),
    )
