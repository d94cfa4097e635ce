"""Tables of network."""

from sqlalchemy import JSON, Column, Index, Integer, MetaData, String, Table, Text

from libs.messaging.tables import messaging_tables
from libs.storage.instant import Instant

metadata = MetaData()
messaging = messaging_tables(metadata)

#: Every version that ever was in force; rows are added and never changed.
versions = Table(
    "versions",
    metadata,
    # The key settles a race: of two that apply at once, only one can take the next number.
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("filename", String(255), nullable=False),
    Column("text", Text, nullable=False),
    Column("definition", JSON, nullable=False),
    Column("document_hash", String(64), nullable=False),
    Column("applied_at", Instant, nullable=False),
    Column("applied_by", String(128), nullable=False),
    Column("comment", Text, nullable=True),
    Column("rollback_of", Integer, nullable=True),
    Column("change_count", Integer, nullable=False),
    Column("not_in_force", JSON, nullable=False),
)

#: Tokens by their hash; the tokens themselves are nowhere.
tokens = Table(
    "tokens",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("token_hash", String(64), nullable=False, unique=True),
    Column("name", String(64), nullable=False),
    Column("role", String(16), nullable=False),
    Column("tenants", JSON(none_as_null=True), nullable=True),
    Column("sites", JSON(none_as_null=True), nullable=True),
    Column("created_at", Instant, nullable=False),
    Column("created_by", String(128), nullable=False),
    Column("expires_at", Instant, nullable=True),
    Column("revoked_at", Instant, nullable=True),
    Column("revoked_by", String(128), nullable=True),
)
# The audit log knows a caller by this name, so it is never that of two at a time.
Index(
    "tokens_name_in_use",
    tokens.c.name,
    unique=True,
    sqlite_where=tokens.c.revoked_at.is_(None),
    postgresql_where=tokens.c.revoked_at.is_(None),
)
