"""Which rule holds a delivery back, and until when.

Revision ID: 0009
Revises: 0008
"""

import sqlalchemy as sa
from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("hold_rule", sa.Text, nullable=True))
    op.add_column("deliveries", sa.Column("hold_until", sa.DateTime(timezone=True), nullable=True))
    op.add_column("deliveries", sa.Column("hold_off", sa.Boolean, nullable=False, server_default=sa.false()))
    held = sa.text("hold_until IS NOT NULL")
    op.create_index("deliveries_held_until", "deliveries", ["hold_until"], postgresql_where=held, sqlite_where=held)
