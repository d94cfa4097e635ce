"""What receivers ask and tell, by association: who is let in, what has arrived, how it was answered."""

import base64
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import Final

from prometheus_client import Counter

from contracts.fact import Source
from libs.dimse import command as commands
from libs.dimse.admission import UNKNOWN_NODE, Admitted, Refusal
from libs.dimse.gate import Gate
from libs.dimse.handshake import HandshakeError
from libs.dimse.refrain import Refrain
from libs.telemetry import log
from services.ingest import identity, metric
from services.ingest.arrival import Arrival, Entry
from services.ingest.commitment import Commitments
from services.ingest.identity import Objection
from services.ingest.upload import Uploads
from services.ingest.wire import Message
from services.ingest.work import Work

_LOG = log.get(__name__)
_RELEASED: Final = "released"
#: Echo without a definition, a refusal that was told already, and what was ended here.
_NO_FAULT: Final = ("released", "rejected", "stopped")
#: Seconds in which an address is told of once that connects and asks for nothing.
_SAID_EVERY: Final = 60.0
_SAY: Final = {"info": _LOG.info, "warning": _LOG.warning, "error": _LOG.error}


@dataclass(frozen=True)
class _Association:
    node: Admitted
    source: Source
    receiver: str


# Looked up for each arrival: kept, as that costs more than counting.
@cache
def _with_status(status: int) -> Counter:
    return metric.INSTANCES.labels(status=f"0x{status:04X}")


class Reception:
    """The associations of all receivers. From one event loop only.

    Parameters
    ----------
    gate
        Decides who is let in.
    work, submit
        Told of what is in hand; indexes it.
    commitments
        Keeps what archives report.
    uploads
        With `ack=object-store`; None with `ack=spool`.
    name
        Names an association.
    """

    def __init__(
        self,
        gate: Gate,
        work: Work,
        submit: Callable[[Entry], None],
        *,
        commitments: Commitments,
        uploads: Uploads | None,
        name: Callable[[], str],
    ) -> None:
        self._gate = gate
        self._work = work
        self._submit = submit
        self._commitments = commitments
        self._uploads = uploads
        self._name = name
        self._associations: dict[str, _Association] = {}
        self._silent = Refrain(_SAID_EVERY, time.monotonic)
        #: Arrivals in hand that their receiver has not said to be entries, with the receiver.
        self._expected: dict[str, tuple[Entry, str]] = {}

    def admit(self, receiver: str, message: Message) -> Message:
        """Decide about an association; the answer has `rejection`, or `session` and `standard`."""
        called, calling, address = message["called"], message["calling"], message["address"]
        shown = None if message["certificate"] is None else base64.b64decode(message["certificate"])
        name = self._name()
        decision = self._gate.admit(called, calling, address, shown, association=name)
        if isinstance(decision, Admitted) and (refusal := _unwanted(decision, message)) is not None:
            self._gate.closed(name)
            decision = refusal
        if isinstance(decision, Refusal):
            # C-ECHO tells nothing and stores nothing: without a definition it is how people look for the port.
            if not decision.permanent and decision.source == 1 and message["only_echo"]:
                return {"rejection": None, "session": None, "standard": False}
            metric.ASSOCIATIONS.labels(outcome="refused").inc()
            self._gate.refused(calling, called, address, decision.reason)
            return {"rejection": [1 if decision.permanent else 2, decision.source, decision.diagnostic]}
        source = Source(
            site=decision.site,
            node=decision.node,
            calling_aet=calling,
            called_aet=called,
            address=str(ip_address(address.partition("%")[0])),
            tls_subject=decision.tls_subject,
        )
        self._associations[name] = _Association(decision, source, receiver)
        self._work.opened(name)
        metric.OPEN.set(self._work.associations())
        metric.ASSOCIATIONS.labels(outcome="accepted").inc()
        say = _LOG.warning if decision.node == UNKNOWN_NODE else _LOG.info
        say("association accepted", association=name, node=decision.node, calling_aet=calling, address=address)
        if message["reports"] and not decision.commits:
            _LOG.warning(
                "storage commitment refused", association=name, node=decision.node, reason=_no_commitment(decision)
            )
        return {
            "rejection": None,
            "standard": decision.sop_classes == "standard",
            "session": {
                "id": name,
                "tenant": decision.tenant,
                "site": decision.site,
                "node": decision.node,
                "may_store": "store" in decision.may,
                "may_report": decision.commits and message["reports"],
                "object_size": decision.limits.object_size,
                "rated": decision.limits.rate is not None,
                "provenance": {"tenant": decision.tenant, "association": name, **source.model_dump(exclude_none=True)},
            },
        }

    def take(self, association: str) -> float:
        """Give the seconds that an answer has to wait for its node's rate."""
        return self._gate.take(association)

    def closed(self, association: str, how: str) -> None:
        """An association has ended; nothing more of it will come."""
        found = self._associations.pop(association, None)
        if found is None:
            return
        self._gate.closed(association)
        self._work.closed(association, broken=how != _RELEASED)
        metric.OPEN.set(self._work.associations())
        metric.ASSOCIATIONS.labels(outcome=how).inc()
        _LOG.info("association closed", association=association, node=found.node.node, outcome=how)

    def gone(self, address: str, message: Message) -> None:
        """A connection has ended on which nobody was let in."""
        how = message["how"]
        if how == "handshake":
            self._gate.insecure(address, HandshakeError(message["failure"], message["reason"]))
        elif how not in _NO_FAULT:
            metric.ASSOCIATIONS.labels(outcome="no-association").inc()
            count = self._silent.count(address)
            if count is not None:
                _LOG.warning(
                    "connection closed without a valid association request",
                    address=address,
                    outcome=how,
                    reason=message["reason"],
                    count=count,
                )

    def known(self) -> set[str]:
        """List the arrivals that are in hand and will be indexed."""
        return self._work.arrivals() - self._expected.keys()

    def lost(self, receiver: str) -> None:
        """A receiver is no more, and its associations with it."""
        for name in [name for name, each in self._associations.items() if each.receiver == receiver]:
            self.closed(name, "lost")
        for arrival_id in [each for each, (_, its) in self._expected.items() if its == receiver]:
            self.dropped({"id": arrival_id, "why": None, "doubtful": True})

    def spooled(self, folder: Path, message: Message) -> None:
        """An arrival is on stable storage: it is in hand from now on."""
        entry = self._entry(folder, message)
        if self._uploads is not None and entry.accepted:
            entry = replace(entry, uploaded=True)
            self._uploads.worked()
        self.take_up(entry)
        self._count(message["status"], message["seconds"])
        if entry.accepted:
            metric.BYTES.inc(message["length"])

    def take_up(self, entry: Entry) -> None:
        """Have an entry indexed."""
        arrival = entry.arrival
        self._expected.pop(arrival.id, None)
        self._work.spooled(arrival.id, arrival.association_id, entry.study, arrival.received_at)
        self._submit(entry)

    def answered(self, message: Message) -> None:
        """A request was answered, and nothing of it is kept."""
        self._count(message["status"], message["seconds"])
        if message["failure"] is not None:
            metric.FAILURES.labels(kind=message["failure"]).inc()

    def say(self, message: Message) -> None:
        """Log what a receiver says."""
        _SAY[message["level"]](message["event"], **message["said"])

    async def expect(self, receiver: str, folder: Path, message: Message) -> Message:
        """Record an arrival that is about to be uploaded; the answer has its key, or `why` it must not be."""
        if self._uploads is None or message["association"] not in self._associations:
            return {"why": "the association has ended"}
        why = self._uploads.breaker.refuses()
        if why is not None:
            return {"why": why}
        entry = self._entry(folder, message)
        arrival = entry.arrival
        # In hand before it is acknowledged: the record of it must not look like one that this replica has lost.
        self._expected[arrival.id] = entry, receiver
        self._work.spooled(arrival.id, arrival.association_id, entry.study, arrival.received_at)
        why = await self._uploads.expect(entry)
        if why is not None:
            self._expected.pop(arrival.id, None)
        return {"why": why, "key": entry.object_key}

    async def report(self, message: Message) -> int:
        """Keep what an archive reports of storage commitment; give the status to answer with."""
        found = self._associations.get(message["association"])
        if found is None:
            return commands.PROCESSING_FAILURE
        return await self._commitments.take(found.node, message["association"], message)

    def dropped(self, message: Message) -> None:
        """An arrival that was expected is not acknowledged; nothing of it stays."""
        found = self._expected.pop(message["id"], None)
        if found is None or self._uploads is None:
            return
        if message["why"] is not None:
            self._uploads.failed(message["why"])
        self._uploads.remove(message["id"], found[0].object_key, doubtful=message["doubtful"])

    def _entry(self, folder: Path, message: Message) -> Entry:
        association = self._associations[message["association"]]
        status = message["status"]
        arrival = Arrival(
            id=message["id"],
            tenant=association.node.tenant,
            source=association.source,
            association_id=message["association"],
            sop_class_uid=message["sop_class_uid"],
            sop_instance_uid=message["sop_instance_uid"],
            transfer_syntax_uid=message["transfer_syntax_uid"],
            received_at=datetime.fromisoformat(message["received_at"]),
            traceparent=message["traceparent"],
        )
        return Entry(
            arrival=arrival,
            study_uid=message["study_uid"],
            series_uid=message["series_uid"],
            path=folder / message["file"],
            content_hash=message["sha256"],
            size=message["size"],
            accepted=status == identity.SUCCESS,
            objection=None if status == identity.SUCCESS else Objection(status, message["reason"], message["detail"]),
        )

    def _count(self, status: int, seconds: float) -> None:
        _with_status(status).inc()
        metric.RESPONSE.observe(seconds)


def _unwanted(node: Admitted, message: Message) -> Refusal | None:
    """Say why a node may do nothing of what it asks for, if so."""
    if message["only_echo"] or (message["reports"] and node.commits):
        return None
    if message["reports"] and not message["stores"]:
        return Refusal(_no_commitment(node), permanent=True, diagnostic=1)
    if "store" not in node.may:
        return Refusal(f"the node {node.node} may not store: add `store` to its `may`", permanent=True, diagnostic=1)
    return None


def _no_commitment(node: Admitted) -> str:
    return (
        f"the node {node.node} asks to report storage commitment, and is not said to answer it: "
        "add `commit: true` to the node if it is an archive that we send to"
    )
