"""Tables of egress."""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Date,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    false,
    text,
    true,
)

from libs.messaging.tables import messaging_tables
from libs.storage.instant import Instant

metadata = MetaData()
messaging = messaging_tables(metadata)
_row_id = BigInteger().with_variant(Integer, "sqlite")

deliveries = Table(
    "deliveries",
    metadata,
    Column("id", String(32), primary_key=True),
    Column("tenant", String(63), nullable=False),
    Column("site", String(63), nullable=True),
    Column("study_instance_uid", String(64), nullable=False),
    Column("destination", String(63), nullable=False),
    Column("state", String(16), nullable=False),
    Column("reason", Text, nullable=True),
    Column("lane", SmallInteger, nullable=False),
    Column("source_node", Text, nullable=False),
    Column("network_version", Integer, nullable=False),
    Column("study_version", Integer, nullable=True),
    Column("expected_count", Integer, nullable=True),
    Column("expected_hash", String(64), nullable=True),
    # The version of the study for which delivery.completed was said: said once for each.
    Column("completed_version", Integer, nullable=True),
    Column("attempts", Integer, nullable=False, server_default="0"),
    # When the first item that can be sent and is not leased is due; none if there is none. Kept while it is held.
    Column("next_attempt_at", Instant, nullable=True),
    Column("requested_at", Instant, nullable=False),
    Column("completed_at", Instant, nullable=True),
    Column("traceparent", String(64), nullable=True),
    # What a person has ordered: `held` or `cancelled`.
    Column("ordered", String(16), nullable=True),
    Column("ordered_by", Text, nullable=True),
    Column("ordered_at", Instant, nullable=True),
    Column("ordered_why", Text, nullable=True),
    # When the destination is to be asked, the next time, whether it has all of it; none if it need not be asked now.
    Column("confirm_at", Instant, nullable=True),
    # How often it was asked in vain, and what was wrong with the asking.
    Column("confirm_asks", Integer, nullable=False, server_default="0"),
    Column("confirm_problem", Text, nullable=True),
    # Who fixed the lane: what is asked for later does not change it.
    Column("lane_by", Text, nullable=True),
    # Since when it is tried without anybody having decided about it anew; none from a release that did not note it.
    Column("wanted_since", Instant, nullable=True),
    # Why it is not tried any more, though something of it could be.
    Column("given_up", Text, nullable=True),
    # The destination that gets it instead; by nobody: because this one is out of reach.
    Column("diverted_to", String(63), nullable=True),
    Column("diverted_at", Instant, nullable=True),
    Column("diverted_by", Text, nullable=True),
    Column("diverted_why", Text, nullable=True),
    # A person wants it at its own destination: no failover.
    Column("stays", Boolean, nullable=False, server_default=false()),
    # The version of the study of which all that was to go here was said to be there.
    Column("arrived_version", Integer, nullable=True),
    # The rule that keeps it back, and until when; without a time until a person releases it. Off: a person has.
    Column("hold_rule", Text, nullable=True),
    Column("hold_until", Instant, nullable=True),
    Column("hold_off", Boolean, nullable=False, server_default=false()),
    # Something was diverted to it: version, count and hash above are of all that it carries, and these are of what was
    # asked for by its own name.
    Column("joined", Boolean, nullable=False, server_default=false()),
    Column("own_version", Integer, nullable=True),
    Column("own_count", Integer, nullable=True),
    Column("own_hash", String(64), nullable=True),
    UniqueConstraint("tenant", "study_instance_uid", "destination", name="deliveries_business_key"),
    Index("deliveries_due", "destination", "state", "lane", "next_attempt_at"),
    Index("deliveries_listed", "requested_at", "id"),
)

# Only few are to be confirmed: the others cost nothing here.
_TO_CONFIRM = deliveries.c.confirm_at.is_not(None)
Index(
    "deliveries_to_confirm",
    deliveries.c.destination,
    deliveries.c.confirm_at,
    postgresql_where=_TO_CONFIRM,
    sqlite_where=_TO_CONFIRM,
)

# Only few are held until a time: the others cost nothing here.
_HELD_UNTIL = deliveries.c.hold_until.is_not(None)
Index("deliveries_held_until", deliveries.c.hold_until, postgresql_where=_HELD_UNTIL, sqlite_where=_HELD_UNTIL)

items = Table(
    "items",
    metadata,
    Column("id", _row_id, primary_key=True, autoincrement=True),
    Column("delivery_id", String(32), ForeignKey("deliveries.id"), nullable=False),
    Column("sop_instance_uid", String(64), nullable=False),
    Column("content_hash", String(64), nullable=False),
    # Name of the rule's transform; empty for none, as NULL would not take part in the unique key.
    Column("transform", String(63), nullable=False),
    # What it said when rules last asked for the instance, and under which version of the definition that was; empty
    # where nobody told: then the definition in force counts.
    Column("transform_version", String(16), nullable=False, server_default=text("''")),
    Column("decided_under", Integer, nullable=False, server_default="0"),
    # Rules asked anew while it was in hand: the version of all that is to be done to it by that.
    Column("wanted", String(16), nullable=True),
    Column("sop_class_uid", String(64), nullable=False),
    Column("transfer_syntax_uid", String(64), nullable=False),
    Column("object_key", Text, nullable=False),
    Column("size", BigInteger, nullable=False),
    Column("state", String(8), nullable=False),
    Column("status", String(16), nullable=True),
    Column("reason", Text, nullable=True),
    Column("attempts", Integer, nullable=False, server_default="0"),
    Column("refusals", Integer, nullable=False, server_default="0"),
    Column("next_attempt_at", Instant, nullable=True),
    Column("sent_at", Instant, nullable=True),
    # Of several contents of one instance the one that was received last is current; the others are not sent any more.
    Column("received_at", Instant, nullable=True),
    Column("current", Boolean, nullable=False, server_default=true()),
    # Asked for by the name of this destination, and not only diverted to it.
    Column("own", Boolean, nullable=False, server_default=true()),
    # The worker that has it in hand. It is free again when the worker is not alive any more.
    Column("leased_by", String(128), nullable=True),
    # When the destination committed itself to it, was first seen to have it, and was found not to have it (any more).
    Column("committed_at", Instant, nullable=True),
    Column("found_at", Instant, nullable=True),
    Column("missing_at", Instant, nullable=True),
    # How often the destination said success and then did not commit itself.
    Column("misses", Integer, nullable=False, server_default="0"),
    UniqueConstraint("delivery_id", "sop_instance_uid", "content_hash", "transform", name="items_business_key"),
    Index("items_due", "delivery_id", "state", "next_attempt_at"),
    Index("items_leased", "leased_by"),
    Index("items_sent", "sent_at"),
)

_MISSING = items.c.missing_at.is_not(None)
Index("items_missing", items.c.missing_at, postgresql_where=_MISSING, sqlite_where=_MISSING)

destinations = Table(
    "destinations",
    metadata,
    Column("key", String(63), primary_key=True),
    Column("failures", Integer, nullable=False, server_default="0"),
    Column("retry_at", Instant, nullable=True),
    Column("problem", Text, nullable=True),
    Column("reached_at", Instant, nullable=True),
    Column("failed_at", Instant, nullable=True),
    # Since when it has taken nothing though it was tried; none if that was interrupted, or not known.
    Column("failing_since", Instant, nullable=True),
    Column("paused_by", Text, nullable=True),
    Column("paused_at", Instant, nullable=True),
    Column("paused_why", Text, nullable=True),
)

workers = Table(
    "workers",
    metadata,
    Column("name", String(128), primary_key=True),
    Column("alive_until", Instant, nullable=False),
)

#: How many associations each worker has, or is about to have, with each destination.
places = Table(
    "places",
    metadata,
    Column("destination", String(63), primary_key=True),
    Column("worker", String(128), primary_key=True),
    Column("number", Integer, nullable=False),
)

#: What a destination answered when a presentation context was proposed to it the last time.
contexts = Table(
    "contexts",
    metadata,
    Column("destination", String(63), primary_key=True),
    Column("sop_class_uid", String(64), primary_key=True),
    Column("transfer_syntax_uid", String(64), primary_key=True),
    Column("accepted", Boolean, nullable=False),
    Column("seen_at", Instant, nullable=False),
)

#: What rules' transforms said when they were decided, as JSON; never changed, and shared by all who were decided so.
documents = Table(
    "documents",
    metadata,
    # Follows from it: see `services.egress.decided.version_of`.
    Column("version", String(16), primary_key=True),
    Column("document", Text, nullable=False),
)

#: What was made of instances by transforms, as it was sent or is about to be; the last time counts.
transformed = Table(
    "transformed",
    metadata,
    Column("item", _row_id, ForeignKey("items.id"), primary_key=True),
    # Follows from all that the transforms do: see `services.egress.transforms.engine.version`.
    Column("version", String(16), nullable=False),
    Column("sop_instance_uid", String(64), nullable=False),
    Column("study_instance_uid", String(64), nullable=False),
    Column("transfer_syntax_uid", String(64), nullable=False),
    Column("content_hash", String(64), nullable=False),
    Column("size", BigInteger, nullable=False),
)

#: Bytes sent a day, by destination or line of a site; only where there is a budget.
sent = Table(
    "sent",
    metadata,
    Column("key", String(64), primary_key=True),
    Column("day", Date, primary_key=True),
    Column("bytes", BigInteger, nullable=False),
)

#: The events that tell partners of versions of studies. One is confirmed when the outbox has its message no more.
announcements = Table(
    "announcements",
    metadata,
    Column("delivery_id", String(32), ForeignKey("deliveries.id"), primary_key=True),
    Column("study_version", Integer, primary_key=True),
    Column("message_id", String(36), nullable=False),
    Column("made_at", Instant, nullable=False),
)

#: Requests for storage commitment, PS3.4 annex J; durable before the destination hears of them.
questions = Table(
    "questions",
    metadata,
    Column("transaction_uid", String(64), primary_key=True),
    Column("delivery_id", String(32), ForeignKey("deliveries.id"), nullable=False),
    # Whose report counts: the destination's node when it was asked.
    Column("node", Text, nullable=False),
    Column("made_at", Instant, nullable=False),
    # Whether it is only to compare: what the destination does not have any more is written down, and not sent again.
    Column("compares", Boolean, nullable=False, server_default=false()),
    # When the destination took the request; none as long as it has not.
    Column("asked_at", Instant, nullable=True),
    Index("questions_of_delivery", "delivery_id"),
)

#: The instances of a request that are not reported yet.
asked = Table(
    "asked",
    metadata,
    Column("transaction_uid", String(64), ForeignKey("questions.transaction_uid"), primary_key=True),
    Column("item", _row_id, ForeignKey("items.id"), primary_key=True),
    # Its number of attempts then: what was sent once more since was not asked for.
    Column("attempt", Integer, nullable=False),
    Index("asked_of_item", "item"),
)

#: The last comparison with each destination.
comparisons = Table(
    "comparisons",
    metadata,
    Column("destination", String(63), primary_key=True),
    # Who is about it; none when it has ended.
    Column("worker", String(128), nullable=True),
    Column("began_at", Instant, nullable=False),
    # When something of it was last written down: a worker that is silent for long is dead.
    Column("touched_at", Instant, nullable=False),
    Column("ended_at", Instant, nullable=True),
    # What was sent in this span is compared.
    Column("since", Instant, nullable=False),
    Column("until", Instant, nullable=False),
    # Up to here all that was sent was compared, by comparisons that came to their end.
    Column("covered_until", Instant, nullable=True),
    Column("studies", Integer, nullable=False, server_default="0"),
    Column("instances", Integer, nullable=False, server_default="0"),
    Column("missing", Integer, nullable=False, server_default="0"),
    # Instances of which the destination did not tell whether it has them.
    Column("unknown", Integer, nullable=False, server_default="0"),
    # False: there was more than one run looks at.
    Column("whole", Boolean, nullable=False, server_default=true()),
    Column("problem", Text, nullable=True),
)
