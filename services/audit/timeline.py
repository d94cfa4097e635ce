"""What an event means, in one plain sentence without anything that says who the patient is."""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any, cast

from contracts.access import AccessUsed, TokenChanged
from contracts.commitment import CommitmentReported
from contracts.delivery import (
    DeliveryAttempted,
    DeliveryChanged,
    DeliveryCompleted,
    DeliveryDiverted,
    DeliveryFailed,
    DeliveryHold,
    DeliveryOrdered,
    DeliveryRequested,
    DeliveryUnconfirmed,
    DestinationChanged,
)
from contracts.fact import PERSONAL_KEY, Fact
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
from contracts.routing import RoutingDecided, RoutingQuarantined, RuleMatch
from contracts.study import StudyAmended, StudyCompleted, StudyExpired, StudyFlagged, StudyTagged

#: Status of an access that is recorded before it is tried.
TRIED = 100
#: Longer lists of parts are given by their number.
LONGEST_LIST = 20


def sentence(data: Fact | None) -> str:
    """Say what happened; a fact of a newer release, which has no sentence here, is said to be unknown."""
    if data is None or type(data) not in _SENTENCES:
        return "An event that this release does not know was recorded."
    return _SENTENCES[type(data)](data)


def details(data: Fact) -> dict[str, Any]:
    """Give the fields of a fact that are not marked as personal data, as JSON values.

    Lists of more than 20 parts are given as `{"count": N}`.
    """
    shown: dict[str, Any] = {}
    for name, field in type(data).model_fields.items():
        extra = field.json_schema_extra
        # A field without a mark could be anything, so it counts as personal.
        if not isinstance(extra, dict) or extra.get(PERSONAL_KEY, "yes") == "yes":
            continue
        value = getattr(data, name)
        if value is not None:
            shown[name] = _plain(value)
    return shown


def _plain(value: Any) -> Any:
    if isinstance(value, Fact):
        return details(value)
    if isinstance(value, tuple):
        return [_plain(one) for one in value] if len(value) <= LONGEST_LIST else {"count": len(value)}
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat()
    return value


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _all(number: int) -> str:
    return "the one instance" if number == 1 else f"all {number} instances"


def _listed(names: Sequence[str]) -> str:
    return ", ".join(names) if names else "nothing"


def _quoted(names: Sequence[str]) -> str:
    return _listed([f"“{name}”" for name in names])


def _closed(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _at(time: datetime) -> str:
    return f"{time.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"


def _instances_stored(data: InstancesStored) -> str:
    number = len(data.instances)
    source = f"{data.source.node} at {data.source.site}"
    return f"{_count(number, 'instance')} from {source} arrived and {'was' if number == 1 else 'were'} made durable."


def _instance_quarantined(data: InstanceQuarantined) -> str:
    return f"An object from {data.source.node} was put into quarantine ({data.reason}): {_closed(data.detail)}"


def _quarantine_resolved(data: QuarantineResolved) -> str:
    if data.resolution == "discarded":
        return f"People discarded a quarantined object ({data.principal}): {_closed(data.reason)}"
    how = f"corrected in {_listed(data.corrected)}" if data.corrected else "as it was"
    return f"People released a quarantined object into the study, {how} ({data.principal}): {_closed(data.reason)}"


_CONFLICTED = {
    "quarantine": "it was put aside for people to look at",
    "keep-first": "the first one was kept, and the other put aside",
    "new-version": "it became a new version, and the one before stays readable",
}


def _instance_conflicted(data: InstanceConflicted) -> str:
    return f"Other content under a known SOP Instance UID came from {data.source.node}: {_CONFLICTED[data.policy]}."


def _study_flagged(data: StudyFlagged) -> str:
    where = "another study" if data.other_study_instance_uid != data.study_instance_uid else "itself"
    return f"The study contradicts {where} about one Patient ID, in {_listed(data.fields)}. People should look at it."


def _study_expired(data: StudyExpired) -> str:
    removed = f"The copy of version {data.version} was removed ({_count(data.instance_count, 'instance')})"
    if data.discarded is not None and not data.destinations:
        return f"{removed}: its keep time is over, and it was wanted nowhere: {_closed(data.discarded)}"
    has = "has" if len(data.destinations) == 1 else "have"
    return f"{removed}: its keep time is over, and {_listed(data.destinations)} {has} it."


_ROOM = {
    "ample": "has room again",
    "low": "is running out of room: people must act before it is full",
    "full": "is full: nothing more is taken into it until there is room",
}


def _room_changed(data: RoomChanged) -> str:
    return f"The disk of {data.place} of {data.replica} {_ROOM[data.state]} ({data.free} bytes free)."


def _association_refused(data: AssociationRefused) -> str:
    return f"A caller at {data.address} was turned away: {_closed(data.reason)}"


def _study_completed(data: StudyCompleted) -> str:
    what = f"{_count(data.instance_count, 'instance')} in {data.series_count} series"
    return f"The study is complete: {what}, from {_listed(data.sites)}."


def _study_amended(data: StudyAmended) -> str:
    return (
        f"{_count(data.added_count, 'more instance')} came: "
        f"version {data.version} of the study has {_count(data.instance_count, 'instance')}."
    )


def _routing_decided(data: RoutingDecided) -> str:
    what = _LOOKED_AT.get(data.occasion or data.trigger) or _count(data.instance_count, "instance")
    looked_at = f"Rules of network version {data.network_version} looked at {what}"
    if data.matches:
        chosen = "; ".join(f"{_quoted([match.rule])} {_chosen(match)}" for match in data.matches)
    else:
        chosen = "none matched"
    failed = f" {_count(len(data.errors), 'rule')} could not be evaluated." if data.errors else ""
    nowhere = " No rule says where the study goes: people must look at it." if data.unmatched else ""
    if data.discarded is not None:
        nowhere = f" All of it is wanted nowhere: {_closed(data.discarded)}"
    return f"{looked_at}: {chosen}.{failed}{nowhere}"


_LOOKED_AT = {
    "series": "the series of the complete study",
    "study": "the complete study",
    "amended": "the amended study",
    "timer": "the study because it was time",
}


def _chosen(match: RuleMatch) -> str:
    said = [
        f"chose {_listed(match.destinations)}" if match.destinations else "",
        f"has {_listed(match.notify)} told" if match.notify else "",
        f"holds it ({match.hold})" if match.hold else "",
        f"set {_listed(list(match.tags))} on the study" if match.tags else "",
        f"put it aside for people: {match.quarantine.rstrip('.')}" if match.quarantine else "",
        f"discarded it: {match.discard.rstrip('.')}" if match.discard else "",
    ]
    return " and ".join(filter(None, said)) or f"made it {match.priority}"


def _routing_quarantined(data: RoutingQuarantined) -> str:
    number = _count(data.instance_count, "instance")
    return f"The rule {_quoted([data.rule])} put {number} aside, until people decide: {_closed(data.reason)}"


def _study_tagged(data: StudyTagged) -> str:
    return f"Rules set {_listed([f'{name}={value}' for name, value in data.tags.items()])} on the study."


def _destination_changed(data: DestinationChanged) -> str:
    if data.healthy:
        return f"{data.destination} is in reach."
    return f"{data.destination} is not in reach: {_closed(data.problem or 'it is not known why')}"


def _delivery_requested(data: DeliveryRequested) -> str:
    number = len(data.items)
    closing = f"; that is all of version {data.study_version}" if data.study_version is not None else ""
    return (
        f"{_count(number, 'instance')} {'is' if number == 1 else 'are'} to go to {data.destination} ({data.priority}) "
        f"by {_quoted(data.rules)}{closing}{_held(data.hold)}."
    )


def _held(hold: DeliveryHold | None) -> str:
    if hold is None:
        return ""
    return ", once a person releases it" if hold.until is None else f", and not before {_at(hold.until)}"


def _delivery_attempted(data: DeliveryAttempted) -> str:
    if data.problem is None and data.failed_count == 0:
        said = f"{_count(data.sent_count, 'instance')} arrived"
    else:
        said = f"{data.sent_count} arrived, {data.failed_count} did not: {(data.problem or 'see details').rstrip('.')}"
    again = "" if data.next_attempt_at is None else f" The next attempt is due at {_at(data.next_attempt_at)}."
    return f"Attempt {data.attempt} to reach {data.destination}: {said}.{again}"


def _delivery_completed(data: DeliveryCompleted) -> str:
    return (
        f"{data.destination} has confirmed {_all(data.instance_count)} of version "
        f"{data.study_version}, after {_count(data.attempts, 'attempt')}."
    )


def _delivery_failed(data: DeliveryFailed) -> str:
    counts = f"{_count(data.failed_count, 'instance')} did not arrive, {data.sent_count} did"
    because = "" if data.reason is None else f" Because: {data.reason.rstrip('.')}."
    return f"The delivery to {data.destination} stopped: {counts}. People must look at it.{because}"


def _delivery_diverted(data: DeliveryDiverted) -> str:
    if data.arrived_version is not None:
        return f"What was to go to {data.destination} of version {data.arrived_version} has arrived at {data.instead}."
    why = f": {data.reason.rstrip('.')}" if data.reason else ""
    if data.actor is None:
        return f"What was to go to {data.destination} goes to {data.instead} instead{why}."
    return f"{data.actor} had what was to go to {data.destination} sent to {data.instead} instead{why}."


def _delivery_changed(data: DeliveryChanged) -> str:
    why = f": {data.reason.rstrip('.')}" if data.reason else ""
    return f"{data.actor} made the delivery to {data.destination} {data.priority}{why}."


def _delivery_unconfirmed(data: DeliveryUnconfirmed) -> str:
    return (
        f"{data.destination} was found not to have {_count(data.missing_count, 'instance')} of {data.sent_count} "
        "that it had said success for. People must look at it."
    )


def _delivery_ordered(data: DeliveryOrdered) -> str:
    why = f": {data.reason}" if data.reason else ""
    return f"{data.actor} had the delivery to {data.destination} {data.order}{why}."


def _commitment_reported(data: CommitmentReported) -> str:
    said = f"{data.node} answers for {_count(len(data.committed), 'instance')}"
    return f"{said}, and not for {len(data.failed)}." if data.failed else f"{said}."


def _order_placed(data: OrderPlaced) -> str:
    return f"An order for {data.modality} was placed ({data.priority})."


def _order_changed(data: OrderChanged) -> str:
    return f"The order for {data.modality} was changed ({data.priority})."


def _order_cancelled(data: OrderCancelled) -> str:
    return f"The order for {data.modality} was cancelled."


def _procedure_started(data: ProcedureStarted) -> str:
    return f"{data.station_aet} started the examination ({data.modality})."


def _procedure_completed(data: ProcedureCompleted) -> str:
    return f"{data.station_aet} completed the examination{_made(data.instance_count)}."


def _procedure_discontinued(data: ProcedureDiscontinued) -> str:
    return f"{data.station_aet} broke the examination off{_made(data.instance_count)}."


def _made(instance_count: int | None) -> str:
    return "" if instance_count is None else f", with {_count(instance_count, 'instance')}"


def _network_applied(data: NetworkApplied) -> str:
    again = "" if data.rollback_of is None else f", which is version {data.rollback_of} again"
    return f"{data.applied_by} put version {data.version} of the network definition in force{again}."


def _access_used(data: AccessUsed) -> str:
    if data.status == TRIED:
        return f"{data.actor} ({data.role}) asked for {data.permission}: {data.method} {data.route}."
    return f"{data.actor} ({data.role}) used {data.permission}: {data.method} {data.route}, answer {data.status}."


def _token_changed(data: TokenChanged) -> str:
    return f"{data.actor} {data.change} the token {data.name} ({data.role})."


def _by_type(*says: Callable[[Any], str]) -> dict[type[Fact], Callable[[Fact], str]]:
    return {cast("type[Fact]", say.__annotations__["data"]): say for say in says}


_SENTENCES = _by_type(
    _instances_stored,
    _instance_quarantined,
    _quarantine_resolved,
    _instance_conflicted,
    _study_flagged,
    _study_expired,
    _room_changed,
    _association_refused,
    _study_completed,
    _study_amended,
    _study_tagged,
    _routing_decided,
    _routing_quarantined,
    _destination_changed,
    _delivery_requested,
    _delivery_attempted,
    _delivery_completed,
    _delivery_failed,
    _delivery_unconfirmed,
    _delivery_diverted,
    _delivery_ordered,
    _delivery_changed,
    _commitment_reported,
    _order_placed,
    _order_changed,
    _order_cancelled,
    _procedure_started,
    _procedure_completed,
    _procedure_discontinued,
    _network_applied,
    _access_used,
    _token_changed,
)
