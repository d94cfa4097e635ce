"""What rules or people want nowhere.

Revision ID: 0006
Revises: 0005
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("studies", sa.Column("discarded_version", sa.Integer, nullable=False, server_default="0"))
    op.add_column("studies", sa.Column("discarded_why", sa.Text, nullable=True))
