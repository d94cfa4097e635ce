"""Retention looks at the studies whose copy is kept.

Revision ID: 0003
Revises: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.drop_index("studies_last_arrival", "studies")
    kept = sa.text("instance_count > 0")
    op.create_index("studies_kept", "studies", ["last_arrival", "id"], sqlite_where=kept, postgresql_where=kept)
