"""How long deliveries are tried, and where they go instead.

Revision ID: 0007
Revises: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_TIME = sa.DateTime(timezone=True)


def upgrade() -> None:
    for column in (
        sa.Column("lane_by", sa.Text, nullable=True),
        sa.Column("wanted_since", _TIME, nullable=True),
        sa.Column("given_up", sa.Text, nullable=True),
        sa.Column("diverted_to", sa.String(63), nullable=True),
        sa.Column("diverted_at", _TIME, nullable=True),
        sa.Column("diverted_by", sa.Text, nullable=True),
        sa.Column("diverted_why", sa.Text, nullable=True),
        sa.Column("stays", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("arrived_version", sa.Integer, nullable=True),
        sa.Column("joined", sa.Boolean, nullable=False, server_default=sa.false()),
        sa.Column("own_version", sa.Integer, nullable=True),
        sa.Column("own_count", sa.Integer, nullable=True),
        sa.Column("own_hash", sa.String(64), nullable=True),
    ):
        op.add_column("deliveries", column)
    op.add_column("items", sa.Column("own", sa.Boolean, nullable=False, server_default=sa.true()))
    op.add_column("destinations", sa.Column("failing_since", _TIME, nullable=True))
