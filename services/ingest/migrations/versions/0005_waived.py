"""What need not go to a destination any more.

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
    op.add_column("deliveries", sa.Column("waived_version", sa.Integer, nullable=False, server_default="0"))
    op.add_column("deliveries", sa.Column("instead", sa.String(63), nullable=True))
    op.add_column("deliveries", sa.Column("word", sa.BigInteger, nullable=False, server_default="0"))
