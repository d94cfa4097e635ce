"""Tables of rules."""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
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

# One row for each study that was heard of: its lock while something of the study is decided.
studies = Table(
    "studies",
    metadata,
    Column("id", _row_id, primary_key=True, autoincrement=True),
    Column("tenant", String(63), nullable=False),
    Column("study_instance_uid", String(64), nullable=False),
    Column("site", String(63), nullable=True),
    # Something was kept while no definition was in force.
    Column("waiting", Boolean, nullable=False),
    # Last version whose copy expired: what came before it is not part of the study any more.
    Column("expired_version", Integer, nullable=False, server_default="0"),
    # Since when no rule has said where its last version goes, or that it goes nowhere; none if one has.
    Column("unmatched_at", Instant, nullable=True),
    UniqueConstraint("tenant", "study_instance_uid", name="studies_business_key"),
    Index("studies_waiting", "waiting"),
)

instances = Table(
    "instances",
    metadata,
    Column("id", _row_id, primary_key=True, autoincrement=True),
    Column("study_id", _row_id, ForeignKey("studies.id"), nullable=False),
    Column("sop_instance_uid", String(64), nullable=False),
    Column("content_hash", String(64), nullable=False),
    Column("sop_class_uid", String(64), nullable=False),
    Column("series_instance_uid", String(64), nullable=False),
    Column("transfer_syntax_uid", String(64), nullable=False),
    Column("object_key", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("received_at", Instant, nullable=False),
    Column("source", JSON, nullable=False),
    Column("attributes", JSON, nullable=False),
    # The batch's full headers, for attributes that events don't carry.
    Column("headers_key", Text, nullable=False),
    # Version of the definition whose rules with trigger `instance` decided; none until then.
    Column("network_version", Integer, nullable=True),
    # Last version of the study when it was indexed, none if that was not said: it is part of the next version, and if
    # that has expired, only its requests still count.
    Column("after_version", Integer, nullable=True),
    # The node that it came from first, if its copy expired and it came again.
    Column("origin", String(63), nullable=True),
    # The rule that put it aside, or discarded it, when it came.
    Column("aside", Text, nullable=True),
    # Destinations that were not healthy when rules with trigger `instance` decided; none if no such rule asked.
    Column("unhealthy", JSON(none_as_null=True), nullable=True),
    UniqueConstraint("study_id", "sop_instance_uid", "content_hash", name="instances_business_key"),
)

completions = Table(
    "completions",
    metadata,
    Column("id", _row_id, primary_key=True, autoincrement=True),
    Column("study_id", _row_id, ForeignKey("studies.id"), nullable=False),
    Column("version", Integer, nullable=False),
    # The event's data, to be decided when every instance of the version is known.
    Column("completed", JSON, nullable=False),
    # open: to be decided; decided; superseded: a higher version was decided first.
    Column("state", String(10), nullable=False),
    Column("network_version", Integer, nullable=True),
    UniqueConstraint("study_id", "version", name="completions_business_key"),
)

requests = Table(
    "requests",
    metadata,
    Column("id", _row_id, primary_key=True, autoincrement=True),
    Column("instance_id", _row_id, ForeignKey("instances.id"), nullable=False),
    Column("destination", String(63), nullable=False),
    Column("transform", String(63), nullable=True),
    Column("priority", String(7), nullable=False),
    Column("rules", JSON, nullable=False),
    # Rule and end of a hold; none if it may go at once.
    Column("hold", JSON(none_as_null=True), nullable=True),
    Column("network_version", Integer, nullable=False),
    UniqueConstraint("instance_id", "destination", name="requests_business_key"),
)

decisions = Table(
    "decisions",
    metadata,
    Column("id", _row_id, primary_key=True, autoincrement=True),
    Column("study_id", _row_id, ForeignKey("studies.id"), nullable=False),
    Column("decided_at", Instant, nullable=False),
    Column("trigger", String(8), nullable=False),
    # The event's data: rules, version, inputs.
    Column("decided", JSON, nullable=False),
    # The trigger as the definition has it, and what the conditions could read; none from a release that kept neither.
    Column("occasion", String(16), nullable=True),
    Column("inputs_hash", String(64), nullable=True),
    Column("inputs", JSON(none_as_null=True), nullable=True),
    Index("decisions_study", "study_id", "id"),
)

#: Tags of studies. Of several rules of a trigger that set one the one with the lowest rank has its value here, and of
#: several triggers that with the lowest rank counts; each is kept, for rules read what triggers before theirs have set.
tags = Table(
    "tags",
    metadata,
    Column("study_id", _row_id, ForeignKey("studies.id"), primary_key=True),
    Column("name", String(63), primary_key=True),
    Column("trigger", String(16), primary_key=True),
    Column("value", Text, nullable=False),
    Column("rule", Text, nullable=False),
    Column("rank", Integer, nullable=False),
    Column("set_at", Instant, nullable=False),
)

#: What rules put aside of studies, by the name that ingest's quarantine has for it.
asides = Table(
    "asides",
    metadata,
    Column("id", String(40), primary_key=True),
    Column("study_id", _row_id, ForeignKey("studies.id"), nullable=False),
    Column("rule", Text, nullable=False),
    # open: people are to decide; released: the rule counts no more for this study; discarded: it goes nowhere.
    Column("state", String(10), nullable=False),
    # How many instances it was told with.
    Column("told", Integer, nullable=False),
    # Version of the study that was put aside as a whole; none if single instances were.
    Column("study_version", Integer, nullable=True),
    Column("opened_at", Instant, nullable=False),
    UniqueConstraint("study_id", "rule", name="asides_business_key"),
)

#: When rules that the clock triggers look at studies.
timers = Table(
    "timers",
    metadata,
    Column("id", _row_id, primary_key=True, autoincrement=True),
    Column("study_id", _row_id, ForeignKey("studies.id"), nullable=False),
    Column("rule", Text, nullable=False),
    Column("study_version", Integer, nullable=False),
    Column("due_at", Instant, nullable=False),
    # When it is looked at for the last time; none: the first time is the last.
    Column("last_at", Instant, nullable=True),
    UniqueConstraint("study_id", "rule", name="timers_business_key"),
    Index("timers_due", "due_at"),
)

#: The last version of a study that a destination has, as far as egress told.
delivered = Table(
    "delivered",
    metadata,
    Column("study_id", _row_id, ForeignKey("studies.id"), primary_key=True),
    Column("destination", String(63), primary_key=True),
    Column("study_version", Integer, nullable=False),
)

#: What egress told last of destinations; one of which it told nothing is taken to be healthy.
destinations = Table(
    "destinations",
    metadata,
    Column("key", String(63), primary_key=True),
    Column("healthy", Boolean, nullable=False),
    Column("problem", Text, nullable=True),
    Column("since", Instant, nullable=False),
)

# Only few match nothing: the others cost nothing here.
_UNMATCHED = studies.c.unmatched_at.is_not(None)
Index("studies_unmatched", studies.c.unmatched_at, postgresql_where=_UNMATCHED, sqlite_where=_UNMATCHED)
#: What worklist told last of orders, by the study that each is for.
orders = Table(
    "orders",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("study_instance_uid", String(64), primary_key=True),
    Column("accession", String(64), nullable=False),
    Column("patient_id", Text, nullable=False),
    Column("state", String(12), nullable=False),
    # Of two events the one with the higher revision counts.
    Column("revision", BigInteger, nullable=False),
    # What conditions read of it: `order.priority` and so on.
    Column("fields", JSON, nullable=False),
    Column("changed_at", Instant, nullable=False),
    # Where it was placed; none of those that were told before this was kept.
    Column("site", String(63), nullable=True),
    Index("orders_accession", "tenant", "accession"),
    Index("orders_changed", "changed_at"),
)

#: Studies that are an order's though no number says so, and those of which a person has said that they are not.
order_links = Table(
    "order_links",
    metadata,
    Column("tenant", String(63), primary_key=True),
    Column("study_instance_uid", String(64), primary_key=True),
    # Of `orders`.
    Column("order_uid", String(64), primary_key=True),
    Column("bound", Boolean, nullable=False),
    Index("order_links_order", "tenant", "order_uid"),
)

# What the rules saw of each study and where it went, kept when its instances are forgotten: for "why", and for trying
# other rules on it.
history = Table(
    "history",
    metadata,
    Column("study_id", _row_id, ForeignKey("studies.id"), primary_key=True, autoincrement=False),
    # When its last version was decided.
    Column("decided_at", Instant, nullable=False),
    Column("record", JSON, nullable=False),
    Index("history_decided", "decided_at", "study_id"),
)

# Definitions that studies were decided under, as gzipped JSON: to say why under the rules of that time.
definitions = Table(
    "definitions",
    metadata,
    Column("version", Integer, primary_key=True, autoincrement=False),
    Column("document", LargeBinary, nullable=False),
)

#: Since when rules are in force, and when they last matched, by name.
uses = Table(
    "uses",
    metadata,
    Column("rule", Text, primary_key=True),
    Column("since", Instant, nullable=False),
    Column("matched_at", Instant, nullable=True),
)

replays = Table(
    "replays",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("asked_at", Instant, nullable=False),
    Column("asked_by", String(63), nullable=False),
    # running, done, failed, cancelled.
    Column("state", String(9), nullable=False),
    # Why it failed.
    Column("problem", Text, nullable=True),
    Column("since", Instant, nullable=False),
    Column("until", Instant, nullable=False),
    # What it is compared with: recorded, or in-force.
    Column("against", String(8), nullable=False),
    Column("network_version", Integer, nullable=False),
    Column("studies_done", BigInteger, nullable=False),
    Column("studies_total", BigInteger, nullable=False),
    # Its process was alive then.
    Column("alive_at", Instant, nullable=False),
    # Prefix of the objects with what it found, once it is done.
    Column("results", Text, nullable=True),
    Index("replays_asked", "asked_at"),
)

# Procedure steps that modalities have completed, of studies that may be complete already, or not have begun to come.
procedures = Table(
    "procedures",
    metadata,
    Column("study_id", _row_id, ForeignKey("studies.id"), primary_key=True, autoincrement=False),
    Column("mpps_instance_uid", String(64), primary_key=True),
    # What conditions read of it, by the names in `libs.definition.attributes`.
    Column("facts", JSON, nullable=False),
    # The modality that reported it, if that was said.
    Column("source", JSON(none_as_null=True), nullable=True),
    Column("ended_at", Instant, nullable=False),
)
