"""The one table of events: type, model, routing key, producers, consumers and queues.

Every queue and binding of the broker is derived from this table; nothing else in the code names one.
"""

from dataclasses import dataclass

from contracts.access import AccessUsed, TokenChanged
from contracts.commitment import CommitmentReported
from contracts.delivery import (
    DeliveryAttempted,
    DeliveryChanged,
    DeliveryCompleted,
    DeliveryDiverted,
    DeliveryFailed,
    DeliveryOrdered,
    DeliveryRequested,
    DeliveryUnconfirmed,
    DestinationChanged,
)
from contracts.fact import Fact
from contracts.instances import (
    AssociationRefused,
    InstanceConflicted,
    InstanceQuarantined,
    InstancesStored,
    QuarantineResolved,
)
from contracts.network import NetworkApplied
from contracts.order import OrderCancelled, OrderChanged, OrderPlaced
from contracts.procedure import ProcedureCompleted, ProcedureDiscontinued, ProcedureStarted
from contracts.room import RoomChanged
from contracts.routing import RoutingDecided, RoutingQuarantined
from contracts.study import StudyAmended, StudyCompleted, StudyExpired, StudyFlagged, StudyTagged

EXCHANGE = "kivuko.events"
DEAD_LETTER_EXCHANGE = "kivuko.dead"
SERVICES = ("ingest", "rules", "egress", "worklist", "audit", "sla", "network", "console")
#: Services that take every event, on one queue of their own bound with `#`.
TAKES_ALL = ("audit",)


@dataclass(frozen=True)
class Topic:
    """One row of the table.

    Attributes
    ----------
    name
        Family, event and version: `study.completed.v1`. The event's type is `kivuko.` plus this.
    model
        Model of the event's `data`.
    producers
        Services that may emit it.
    consumers
        Services with a work queue of their own for it, besides those in `TAKES_ALL`.
    every_replica
        Whether each replica of each service hears it on a queue of its own, instead of one replica of each consumer.
    """

    name: str
    model: type[Fact]
    producers: tuple[str, ...]
    consumers: tuple[str, ...] = ()
    every_replica: bool = False

    @property
    def type(self) -> str:
        """CloudEvents type."""
        return f"kivuko.{self.name}"

    @property
    def pattern(self) -> str:
        """Binding pattern that matches every event of this topic."""
        return f"{self.name}.#"

    def routing_key(self, tenant: str, site: str | None) -> str:
        """Give the key that an event is published with: name, tenant, and site where there is one."""
        return f"{self.name}.{tenant}" if site is None else f"{self.name}.{tenant}.{site}"

    def queue(self, service: str) -> str:
        """Name the work queue of a consuming service."""
        if service not in self.consumers:
            raise ValueError(f"{service} does not consume {self.name}: see contracts/topics.py")
        return f"{service}.{self.name}"


TOPICS: tuple[Topic, ...] = (
    Topic("instances.stored.v1", InstancesStored, ("ingest",), ("rules",)),
    Topic("instances.quarantined.v1", InstanceQuarantined, ("ingest",)),
    Topic("instances.resolved.v1", QuarantineResolved, ("ingest",), ("rules",)),
    Topic("instances.conflicted.v1", InstanceConflicted, ("ingest",)),
    Topic("association.refused.v1", AssociationRefused, ("ingest", "worklist")),
    Topic("room.changed.v1", RoomChanged, ("ingest",)),
    Topic("study.completed.v1", StudyCompleted, ("ingest",), ("rules", "worklist")),
    Topic("study.amended.v1", StudyAmended, ("ingest",), ("rules", "worklist")),
    Topic("study.flagged.v1", StudyFlagged, ("ingest",)),
    Topic("study.expired.v1", StudyExpired, ("ingest",), ("rules",)),
    Topic("study.tagged.v1", StudyTagged, ("rules",)),
    Topic("routing.decided.v1", RoutingDecided, ("rules",), ("ingest",)),
    Topic("routing.quarantined.v1", RoutingQuarantined, ("rules",), ("ingest",)),
    Topic("delivery.requested.v1", DeliveryRequested, ("rules",), ("egress",)),
    Topic("delivery.attempted.v1", DeliveryAttempted, ("egress",)),
    Topic("delivery.completed.v1", DeliveryCompleted, ("egress",), ("ingest", "rules")),
    Topic("delivery.failed.v1", DeliveryFailed, ("egress",)),
    Topic("delivery.unconfirmed.v1", DeliveryUnconfirmed, ("egress",)),
    Topic("delivery.diverted.v1", DeliveryDiverted, ("egress",), ("ingest",)),
    Topic("delivery.ordered.v1", DeliveryOrdered, ("egress",), ("ingest",)),
    Topic("delivery.changed.v1", DeliveryChanged, ("egress",)),
    Topic("destination.changed.v1", DestinationChanged, ("egress",), ("rules",)),
    Topic("commitment.reported.v1", CommitmentReported, ("ingest", "egress"), ("egress",)),
    Topic("order.placed.v1", OrderPlaced, ("worklist",), ("rules",)),
    Topic("order.changed.v1", OrderChanged, ("worklist",), ("rules",)),
    Topic("order.cancelled.v1", OrderCancelled, ("worklist",), ("rules",)),
    Topic("procedure.started.v1", ProcedureStarted, ("worklist",), ("ingest",)),
    Topic("procedure.completed.v1", ProcedureCompleted, ("worklist",), ("ingest", "rules")),
    Topic("procedure.discontinued.v1", ProcedureDiscontinued, ("worklist",), ("ingest",)),
    Topic("network.applied.v1", NetworkApplied, ("network",), every_replica=True),
    Topic("access.used.v1", AccessUsed, SERVICES),
    Topic("access.token-changed.v1", TokenChanged, ("network",), every_replica=True),
)

BY_TYPE: dict[str, Topic] = {topic.type: topic for topic in TOPICS}
BY_MODEL: dict[type[Fact], Topic] = {topic.model: topic for topic in TOPICS}


def all_events_queue(service: str) -> str:
    """Name the queue on which a service of `TAKES_ALL` receives every event."""
    return f"{service}.events"


def replica_queue(service: str, instance: str) -> str:
    """Name the queue of one replica for the topics that every replica hears."""
    return f"{service}.replica.{instance}"


def dead_letter_queue(service: str) -> str:
    """Name the queue that takes what a service could not handle."""
    return f"{service}.dead"
