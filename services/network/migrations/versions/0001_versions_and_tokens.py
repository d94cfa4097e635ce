"""Versions of the network definition, tokens, and the messaging tables."""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

row_id = sa.BigInteger().with_variant(sa.Integer, "sqlite")
time = sa.DateTime(timezone=True)


def upgrade() -> None:
    op.create_table(
        "versions",
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("filename", sa.String(255), nullable=False),
        sa.Column("text", sa.Text, nullable=False),
        sa.Column("definition", sa.JSON, nullable=False),
        sa.Column("document_hash", sa.String(64), nullable=False),
        sa.Column("applied_at", time, nullable=False),
        sa.Column("applied_by", sa.String(128), nullable=False),
        sa.Column("comment", sa.Text, nullable=True),
        sa.Column("rollback_of", sa.Integer, nullable=True),
        sa.Column("change_count", sa.Integer, nullable=False),
        sa.Column("not_in_force", sa.JSON, nullable=False),
    )
    op.create_table(
        "tokens",
        sa.Column("id", sa.String(32), primary_key=True),
        sa.Column("token_hash", sa.String(64), nullable=False, unique=True),
        sa.Column("name", sa.String(64), nullable=False),
        sa.Column("role", sa.String(16), nullable=False),
        sa.Column("tenants", sa.JSON, nullable=True),
        sa.Column("sites", sa.JSON, nullable=True),
        sa.Column("created_at", time, nullable=False),
        sa.Column("created_by", sa.String(128), nullable=False),
        sa.Column("expires_at", time, nullable=True),
        sa.Column("revoked_at", time, nullable=True),
        sa.Column("revoked_by", sa.String(128), nullable=True),
    )
    in_use = sa.text("revoked_at IS NULL")
    op.create_index("tokens_name_in_use", "tokens", ["name"], unique=True, sqlite_where=in_use, postgresql_where=in_use)
    _messaging()


def _messaging() -> None:
    op.create_table(
        "outbox",
        sa.Column("id", row_id, primary_key=True, autoincrement=True),
        sa.Column("message_id", sa.String(64), nullable=False),
        sa.Column("exchange", sa.String(128), nullable=False),
        sa.Column("routing_key", sa.String(255), nullable=False),
        sa.Column("type", sa.String(128), nullable=True),
        sa.Column("content_type", sa.String(128), nullable=False),
        sa.Column("headers", sa.JSON, nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("created_at", time, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("available_at", time, nullable=False),
        sa.Column("leased_by", sa.String(128), nullable=True),
    )
    op.create_index("outbox_available", "outbox", ["available_at", "id"])
    op.create_table(
        "inbox",
        sa.Column("queue", sa.String(128), primary_key=True),
        sa.Column("source", sa.String(128), primary_key=True),
        sa.Column("event_id", sa.String(64), primary_key=True),
        sa.Column("processed_at", time, nullable=False),
    )
    op.create_index("inbox_processed_at", "inbox", ["processed_at"])
    op.create_table(
        "dead_letter",
        sa.Column("id", row_id, primary_key=True, autoincrement=True),
        sa.Column("fingerprint", sa.String(64), nullable=False, unique=True),
        sa.Column("queue", sa.String(128), nullable=False),
        sa.Column("message_id", sa.String(64), nullable=True),
        sa.Column("source", sa.String(128), nullable=True),
        sa.Column("type", sa.String(128), nullable=True),
        sa.Column("subject", sa.String(255), nullable=True),
        sa.Column("tenant", sa.String(63), nullable=True),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("attempts", sa.SmallInteger, nullable=False),
        sa.Column("deaths", sa.JSON, nullable=False),
        sa.Column("headers", sa.JSON, nullable=False),
        sa.Column("content_type", sa.String(128), nullable=False),
        sa.Column("body", sa.LargeBinary, nullable=False),
        sa.Column("died_at", time, nullable=False),
        sa.Column("replayed_at", time, nullable=True),
    )
    op.create_table(
        "sequence",
        sa.Column("source", sa.String(128), primary_key=True),
        sa.Column("value", sa.BigInteger, nullable=False),
    )
