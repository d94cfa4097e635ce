"""Why a person ordered something; how fast it goes lately.

Revision ID: 0005
Revises: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("deliveries", sa.Column("ordered_why", sa.Text, nullable=True))
    op.add_column("destinations", sa.Column("paused_why", sa.Text, nullable=True))
    op.create_index("items_sent", "items", ["sent_at"])
