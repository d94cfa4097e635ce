"""Which destinations were not healthy when an image was decided on.

Revision ID: 0008
Revises: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("instances", sa.Column("unhealthy", sa.JSON(none_as_null=True), nullable=True))
