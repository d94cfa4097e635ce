"""Files as the rules would see them: read, put together to studies, and decided as if they had just arrived."""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

from contracts.definition import Definition
from contracts.delivery import DeliveryItem
from contracts.fact import Attributes, Source
from contracts.instances import StoredInstance
from libs.clock import utc_now
from libs.definition.attributes import STUDY_EXTRAS
from libs.definition.ruleset import RuleSet
from libs.dicom import header, part10
from libs.dicom.excerpt import pick
from libs.dicom.identity import UnreadableDatasetError
from services.ingest.assembly import study_attributes
from services.rules import chronicle
from services.rules.chronicle import Record
from services.rules.explanation import document, explain
from services.rules.plan import Known
from services.rules.reading import CARRIED
from services.rules.route import Route
from services.rules.simulation import Simulation


class NotSentError(ValueError):
    """Nobody can tell which node would send the files; the message says why."""


@dataclass(frozen=True)
class Specimen:
    """One instance in a file.

    Attributes
    ----------
    header
        Its identity and base attributes.
    transfer_syntax_uid
        Of its dataset.
    more
        What else the rules read of it.
    size
        Bytes of the file.
    """

    header: header.Header
    transfer_syntax_uid: str
    more: Attributes
    size: int


def specimens(paths: Iterable[Path], definition: Definition) -> tuple[list[Specimen], list[tuple[str, str]]]:
    """Read the headers of files; give also those that can't be read, each with the reason."""
    rules = RuleSet(definition)
    read = frozenset[str]().union(*(rules.attributes(rule.trigger) for rule in definition.rules))
    found, unreadable = [], []
    for file in _files(paths):
        try:
            found.append(_specimen(file, read - CARRIED - frozenset(STUDY_EXTRAS)))
        except (part10.NotPart10Error, UnreadableDatasetError) as error:
            unreadable.append((str(file), str(error)))
        except OSError as error:
            unreadable.append((str(file), error.strerror or type(error).__name__))
    return found, unreadable


def _files(paths: Iterable[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(one for one in path.rglob("*") if one.is_file())
        else:
            yield path


def _specimen(path: Path, beyond: frozenset[str]) -> Specimen:
    with path.open("rb") as file:
        meta, _ = part10.decode(file)
        if beyond:
            found, document = header.read_whole(file, meta.transfer_syntax_uid)
            more = pick(document, beyond)
        else:
            found, more = header.read(file, meta.transfer_syntax_uid), {}
    return Specimen(found, meta.transfer_syntax_uid, more, path.stat().st_size)


def outcomes(
    found: Sequence[Specimen], definition: Definition, node: str | None, at: str | None
) -> list[dict[str, Any]]:
    """Decide on every study among the specimens, as it would be decided if a node sent them. Raises NotSentError."""
    rules = RuleSet(definition)
    simulation = Simulation(rules)
    studies: dict[str, list[Specimen]] = {}
    for one in found:
        studies.setdefault(one.header.study_instance_uid, []).append(one)
    tried = []
    for uid, instances in studies.items():
        source = _source(definition, node, instances)
        tenant = definition.tenant_of(source.node)
        record = _record(uid, instances, source, rules, _moment(at, rules.timezone_of(source.site)))
        outcome = simulation.outcome(tenant, record)
        version = record.versions[-1]
        tried.append(
            {
                "study_instance_uid": uid,
                "tenant": tenant,
                "source": source.model_dump(mode="json"),
                "instances": version.count,
                "routes": [_route(name, route) for name, route in sorted(outcome.routes.items())],
                "rules": [document(each, with_values=True) for each in explain(rules, tenant, version)],
                "problems": sorted(outcome.problems),
            }
        )
    return tried


def _moment(at: str | None, timezone: str) -> datetime:
    if at is None:
        return utc_now()
    try:
        moment = datetime.fromisoformat(at)
    except ValueError:
        raise NotSentError(f"{at!r} is not a time: write a local time such as 2026-11-20T10:00") from None
    return moment if moment.tzinfo is not None else moment.replace(tzinfo=ZoneInfo(timezone))


def _source(definition: Definition, node: str | None, instances: Sequence[Specimen]) -> Source:
    if node is None:
        node = _guess(definition, {one.header.attributes.get("Modality") for one in instances})
    if node not in definition.nodes:
        raise NotSentError(f"there is no node `{node}`")
    known = definition.nodes[node]
    return Source(
        site=known.site,
        node=node,
        calling_aet=definition.aet_of(node),
        called_aet=known.called or definition.aets[0],
        address=known.host or "0.0.0.0",  # noqa: S104 - no address that is listened on
    )


def _guess(definition: Definition, modalities: set[Any]) -> str:
    senders = [key for key, node in definition.nodes.items() if "store" in node.may and not node.retired]
    fitting = [key for key in senders if definition.nodes[key].modality in modalities]
    for some in (fitting, senders):
        if len(some) == 1:
            return some[0]
    raise NotSentError("nothing says which node sends the files")


def _record(uid: str, instances: Sequence[Specimen], source: Source, rules: RuleSet, now: datetime) -> Record:
    stored = [
        StoredInstance(
            sop_instance_uid=one.header.sop_instance_uid,
            sop_class_uid=one.header.sop_class_uid,
            series_instance_uid=one.header.series_instance_uid,
            transfer_syntax_uid=one.transfer_syntax_uid,
            content_hash=hashlib.sha256(str(number).encode()).hexdigest(),
            object_key="",
            size=one.size,
            received_at=now,
            attributes=one.header.attributes,
        )
        for number, one in enumerate(instances)
    ]
    known = [
        Known(
            id=number,
            item=DeliveryItem.model_validate(one.model_dump(exclude={"attributes"}), from_attributes=True),
            series_instance_uid=one.series_instance_uid,
            received_at=now,
            source=source,
            attributes=one.attributes,
            headers_key="",
        )
        for number, one in enumerate(stored)
    ]
    made = chronicle.version(
        *(1, now, 1, now, source),
        {"StudyInstanceUID": uid, "Sites": [source.site], **study_attributes(stored)},
        known,
        named=lambda one: {
            "StudyInstanceUID": uid,
            "SeriesInstanceUID": one.series_instance_uid,
            "SOPInstanceUID": one.item.sop_instance_uid,
            "SOPClassUID": one.item.sop_class_uid,
            "TransferSyntaxUID": one.item.transfer_syntax_uid,
        },
        more={number: one.more for number, one in enumerate(instances)},
        looked_for=frozenset[str]().union(*(rules.attributes(rule.trigger) for rule in rules.definition.rules)),
        unhealthy=frozenset(),
        most_kinds=len(known),
    )
    return Record((made,), {})


def _route(destination: str, route: Route) -> dict[str, Any]:
    return {
        "destination": destination,
        "priority": route.priority,
        "transforms": [one for one in route.transforms if one],
        "held": route.held,
        "instances": route.count,
        "bytes": route.size,
    }
