"""Tables of worklist."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Float,
    ForeignKey,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    String,
    Table,
    Text,
    UniqueConstraint,
)

from libs.messaging.tables import messaging_tables
from libs.storage.instant import Instant

metadata = MetaData()
messaging = messaging_tables(metadata)
_row_id = BigInteger().with_variant(Integer, "sqlite")

#: The last numbers that were given to rows. Every transaction that writes orders, patients or items locks `revision`
#: first: they come one after the other on all replicas, and revisions become visible in their order.
counters = Table(
    "counters",
    metadata,
    Column("name", String(16), primary_key=True),
    Column("value", BigInteger, nullable=False),
)

#: What was received, and what was answered: it is answered again in the same way.
messages = Table(
    "messages",
    metadata,
    Column("id", _row_id, primary_key=True, autoincrement=True),
    # None if nothing in it says whose it is.
    Column("tenant", String(63), nullable=True),
    Column("source", String(80), nullable=False),
    Column("control_id", String(199), nullable=False),
    Column("digest", String(64), nullable=False),
    Column("received_at", Instant, nullable=False),
    Column("raw", LargeBinary, nullable=False),
    # AA, AE or AR.
    Column("answer", String(2), nullable=False),
    # Bytes of what was received, once they are no longer kept; none as long as they are.
    Column("removed_size", Integer, nullable=True),
    Column("said", Text, nullable=False),
    Column("outcomes", JSON, nullable=False),
    Column("warnings", JSON, nullable=False),
    UniqueConstraint("source", "control_id", "digest", name="messages_business_key"),
)
# Those that are removed already are many, and nobody looks for them.
_WITH_BYTES = messages.c.removed_size.is_(None)
Index("messages_kept", messages.c.received_at, postgresql_where=_WITH_BYTES, sqlite_where=_WITH_BYTES)

patients = Table(
    "patients",
    metadata,
    Column("id", _row_id, primary_key=True, autoincrement=False),
    Column("tenant", String(63), nullable=False),
    Column("value", String(199), nullable=False),
    Column("issuer", String(199), nullable=False),
    # Whose own an identifier without an issuer is; empty where there is one.
    Column("site", String(63), nullable=False),
    # Attributes by keyword, each with the place of the change that said it.
    Column("said", JSON, nullable=False),
    # The patient that this one was merged into; none if it was not.
    Column("merged_into", _row_id, ForeignKey("patients.id"), nullable=True),
    Column("changed_at", Instant, nullable=False),
    UniqueConstraint("tenant", "value", "issuer", "site", name="patients_business_key"),
    Index("patients_merged", "merged_into"),
)

#: Journal of merges: none is ever deleted.
merges = Table(
    "merges",
    metadata,
    Column("id", _row_id, primary_key=True, autoincrement=False),
    Column("tenant", String(63), nullable=False),
    Column("kept_id", _row_id, ForeignKey("patients.id"), nullable=False),
    Column("merged_id", _row_id, ForeignKey("patients.id"), nullable=False),
    Column("source", String(80), nullable=False),
    Column("message", String(255), nullable=False),
    Column("merged_at", Instant, nullable=False),
    Column("undone_at", Instant, nullable=True),
    Column("undone_by", String(80), nullable=True),
    Column("reason", Text, nullable=True),
    Index("merges_merged", "merged_id"),
    Index("merges_kept", "kept_id"),
)

orders = Table(
    "orders",
    metadata,
    Column("id", _row_id, primary_key=True, autoincrement=False),
    Column("tenant", String(63), nullable=False),
    Column("site", String(63), nullable=False),
    Column("patient_id", _row_id, ForeignKey("patients.id"), nullable=False),
    Column("placer", String(199), nullable=True),
    Column("filler", String(199), nullable=True),
    Column("accession", String(16), nullable=False),
    Column("study_instance_uid", String(64), nullable=False),
    # Keywords of numbers that Kivuko made.
    Column("minted", JSON, nullable=False),
    Column("priority", String(7), nullable=False),
    Column("state", String(12), nullable=False),
    # The start of its first step by the clock of its site, YYYYMMDDHHMMSS; empty if none is known.
    Column("start", String(14), nullable=False),
    # What its last event said, to be compared with the next one.
    Column("told", JSON, nullable=False),
    # The order that it turned out to be a part of: two numbers became known to be one order's.
    Column("joined_into", _row_id, ForeignKey("orders.id"), nullable=True),
    Column("placed_at", Instant, nullable=False),
    Column("changed_at", Instant, nullable=False),
    # Whether it names no number of a filler or placer, and belongs to each order with its accession number.
    Column("floating", Boolean, nullable=False),
    Index("orders_patient", "patient_id"),
    Index("orders_listed", "tenant", "state", "start"),
    Index("orders_study", "study_instance_uid"),
    Index("orders_accession", "accession"),
)

#: Every number by which an order was ever named.
order_numbers = Table(
    "order_numbers",
    metadata,
    Column("tenant", String(63), primary_key=True),
    # placer, filler, accession, floating.
    Column("kind", String(9), primary_key=True),
    Column("value", String(199), primary_key=True),
    # Issuer, or @ and the site where none was said.
    Column("scope", String(199), primary_key=True),
    Column("order_id", _row_id, ForeignKey("orders.id"), primary_key=True),
    Index("order_numbers_order", "order_id"),
)

#: Journal of what was said: orders are what follows from it.
changes = Table(
    "changes",
    metadata,
    Column("id", _row_id, primary_key=True, autoincrement=True),
    Column("tenant", String(63), nullable=False),
    Column("source", String(80), nullable=False),
    # Control identifier and the first digits of the digest: senders use an identifier again for another message.
    Column("message", String(255), nullable=False),
    Column("part", Integer, nullable=False),
    Column("stamp", Instant, nullable=False),
    # order, patient or merge.
    Column("kind", String(7), nullable=False),
    Column("order_id", _row_id, ForeignKey("orders.id"), nullable=True),
    Column("patient_id", _row_id, ForeignKey("patients.id"), nullable=True),
    Column("body", JSON, nullable=False),
    UniqueConstraint("source", "message", "part", name="changes_business_key"),
    Index("changes_order", "order_id"),
    Index("changes_patient", "patient_id"),
)

#: What modalities are answered with: one row for each scheduled procedure step.
items = Table(
    "items",
    metadata,
    Column("id", _row_id, primary_key=True, autoincrement=False),
    Column("tenant", String(63), nullable=False),
    Column("site", String(63), nullable=False),
    Column("order_id", _row_id, ForeignKey("orders.id"), nullable=False),
    Column("step_id", String(64), nullable=False),
    # scheduled, arrived, started, completed, discontinued, cancelled.
    Column("state", String(12), nullable=False),
    # in-progress, completed, discontinued, as modalities report it; none if none has.
    Column("performed", String(12), nullable=True),
    # Start by the clock of its site, YYYYMMDDHHMMSS; empty if none is known.
    Column("start", String(14), nullable=False),
    Column("station_aets", JSON, nullable=False),
    Column("modality", String(16), nullable=False),
    # The whole dataset of an answer.
    Column("attributes", JSON, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("changed_at", Instant, nullable=False),
    Index("items_revision", "revision"),
    Index("items_order", "order_id"),
)

#: Studies that came, as far as matching with orders needs them.
studies = Table(
    "studies",
    metadata,
    Column("id", _row_id, primary_key=True, autoincrement=True),
    Column("tenant", String(63), nullable=False),
    Column("study_instance_uid", String(64), nullable=False),
    Column("site", String(63), nullable=True),
    Column("accession", String(64), nullable=False),
    Column("patient", String(199), nullable=False),
    Column("issuer", String(199), nullable=False),
    Column("modality", String(16), nullable=False),
    # The order that it belongs to, and how that was found: study-uid, accession, patient, hand; none if none was found.
    Column("order_id", _row_id, ForeignKey("orders.id"), nullable=True),
    Column("matched_by", String(10), nullable=True),
    # Its patient is not the order's: people must look.
    Column("contradicts", Boolean, nullable=False),
    Column("first_seen_at", Instant, nullable=False),
    Column("completed_at", Instant, nullable=True),
    UniqueConstraint("tenant", "study_instance_uid", name="studies_business_key"),
    Index("studies_accession", "tenant", "accession"),
    Index("studies_order", "order_id"),
    Index("studies_first_seen", "first_seen_at"),
)

#: Journal of what people said of the links between studies and orders: nothing is ever deleted.
study_links = Table(
    "study_links",
    metadata,
    Column("id", _row_id, primary_key=True, autoincrement=True),
    Column("tenant", String(63), nullable=False),
    Column("study_instance_uid", String(64), nullable=False),
    Column("order_id", _row_id, ForeignKey("orders.id"), nullable=False),
    # link or unlink.
    Column("act", String(6), nullable=False),
    Column("who", String(80), nullable=False),
    Column("reason", Text, nullable=False),
    # How the study had been matched before; none if it was not.
    Column("matched_by", String(10), nullable=True),
    Column("at", Instant, nullable=False),
    Index("study_links_study", "tenant", "study_instance_uid"),
    Index("study_links_order", "order_id"),
)

#: Performed procedure steps, as modalities report them.
mpps = Table(
    "mpps",
    metadata,
    Column("id", _row_id, primary_key=True, autoincrement=True),
    Column("tenant", String(63), nullable=False),
    Column("site", String(63), nullable=False),
    Column("node", String(63), nullable=False),
    Column("sop_instance_uid", String(64), nullable=False),
    # in-progress, completed, discontinued.
    Column("state", String(12), nullable=False),
    Column("station_aet", String(16), nullable=False),
    Column("modality", String(16), nullable=False),
    # Patient ID (0010,0020) as the modality says it.
    Column("patient", String(255), nullable=False),
    # All that was said of it: attributes by keyword.
    Column("attributes", JSON, nullable=False),
    # What was said otherwise than PS3.4 wants, as sentences.
    Column("lapses", JSON, nullable=False),
    Column("started_at", Instant, nullable=False),
    Column("ended_at", Instant, nullable=True),
    Column("instance_count", Integer, nullable=False),
    # It was discontinued because the wrong worklist entry had been selected: the scheduled step is still to be done.
    Column("wrong_entry", Boolean, nullable=False),
    # How often something was said again that was known: a modality that saw no answer.
    Column("repeated", Integer, nullable=False),
    Column("created_at", Instant, nullable=False),
    Column("changed_at", Instant, nullable=False),
    UniqueConstraint("tenant", "sop_instance_uid", name="mpps_business_key"),
    Index("mpps_changed", "changed_at"),
    Index("mpps_state", "state", "changed_at"),
)

#: The scheduled steps that a performed one names, and the items that they are.
mpps_items = Table(
    "mpps_items",
    metadata,
    Column("mpps_id", _row_id, ForeignKey("mpps.id"), primary_key=True),
    # Place in the Scheduled Step Attributes Sequence, from 0.
    Column("number", Integer, primary_key=True),
    Column("study_instance_uid", String(64), nullable=False),
    Column("accession", String(64), nullable=False),
    Column("step_id", String(64), nullable=False),
    # Study Instance UIDs of the Referenced Study Sequence.
    Column("referenced", JSON, nullable=False),
    Column("item_id", _row_id, ForeignKey("items.id"), nullable=True),
    # How it was found: step, study, accession, referenced, hand.
    Column("matched_by", String(10), nullable=True),
    # The modality names another patient than the order: people must look.
    Column("contradicts", Boolean, nullable=False),
    Index("mpps_items_item", "item_id"),
    Index("mpps_items_study", "study_instance_uid"),
    Index("mpps_items_accession", "accession"),
)

#: Every request that was answered with success, as it came.
mpps_messages = Table(
    "mpps_messages",
    metadata,
    Column("mpps_id", _row_id, ForeignKey("mpps.id"), primary_key=True),
    # 0 is the N-CREATE, all others are N-SETs in their order.
    Column("number", Integer, primary_key=True),
    Column("calling_aet", String(16), nullable=False),
    Column("received_at", Instant, nullable=False),
    Column("transfer_syntax_uid", String(64), nullable=False),
    Column("dataset", LargeBinary, nullable=False),
)

#: To whom a step is forwarded, and how far.
mpps_forwards = Table(
    "mpps_forwards",
    metadata,
    Column("mpps_id", _row_id, ForeignKey("mpps.id"), primary_key=True),
    Column("node", String(63), primary_key=True),
    # How many of its messages that node has.
    Column("sent", Integer, nullable=False),
    # open, done, failed (people must look).
    Column("state", String(6), nullable=False),
    Column("failures", Integer, nullable=False),
    Column("due_at", Instant, nullable=False),
    Column("leased_by", String(128), nullable=True),
    Column("leased_until", Instant, nullable=True),
    Column("problem", Text, nullable=True),
    Column("changed_at", Instant, nullable=False),
    Index("mpps_forwards_due", "state", "due_at"),
)

#: What modalities asked, and what they got; the same once more counts up.
queries = Table(
    "queries",
    metadata,
    Column("id", _row_id, primary_key=True, autoincrement=True),
    Column("tenant", String(63), nullable=False),
    Column("site", String(63), nullable=False),
    Column("node", String(63), nullable=False),
    Column("calling_aet", String(16), nullable=False),
    Column("address", String(45), nullable=False),
    # Keyword to text, or to the keys within a sequence.
    Column("keys", JSON, nullable=False),
    # As it came, so that it can be asked again: why was an item not among the answers?
    Column("identifier", LargeBinary, nullable=False),
    Column("syntax", String(64), nullable=False),
    # answered, limited, broken-off, unreadable, refused, failed.
    Column("outcome", String(12), nullable=False),
    Column("count", Integer, nullable=False),
    # Items that matched and that the node does not see.
    Column("hidden", Integer, nullable=False),
    # Keys by which nothing is matched.
    Column("ignored", JSON, nullable=False),
    # Attributes in which characters were changed for the modality.
    Column("replaced", JSON, nullable=False),
    Column("seconds", Float, nullable=False),
    Column("first_at", Instant, nullable=False),
    Column("at", Instant, nullable=False),
    Column("times", Integer, nullable=False),
    Index("queries_node", "tenant", "node", "id"),
    Index("queries_at", "at"),
)
