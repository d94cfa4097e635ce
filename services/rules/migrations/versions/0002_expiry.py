"""What the rules no longer know because its copy expired.

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
    op.add_column("studies", sa.Column("expired_version", sa.Integer(), nullable=False, server_default="0"))
    op.add_column("instances", sa.Column("after_version", sa.Integer(), nullable=True))
