"""What rules decided to do to instances, as it was then.

Revision ID: 0011
Revises: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "documents",
        sa.Column("version", sa.String(16), primary_key=True),
        sa.Column("document", sa.Text, nullable=False),
    )
    op.add_column("items", sa.Column("transform_version", sa.String(16), nullable=False, server_default=sa.text("''")))
    op.add_column("items", sa.Column("decided_under", sa.Integer, nullable=False, server_default="0"))
    op.add_column("items", sa.Column("wanted", sa.String(16), nullable=True))
    op.execute(
        "UPDATE items SET decided_under ="
        " (SELECT network_version FROM deliveries WHERE deliveries.id = items.delivery_id)"
    )
