"""Which of several contents of an instance is the one to deliver.

Revision ID: 0002
Revises: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("items", sa.Column("received_at", sa.DateTime(timezone=True), nullable=True))
    op.add_column("items", sa.Column("current", sa.Boolean(), nullable=False, server_default=sa.true()))
