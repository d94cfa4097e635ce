"""One object that arrived, and where it came from: what its spool file says of itself."""

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from contracts.fact import Source
from libs.dicom.part10 import Meta
from services.ingest.identity import Objection


class DamagedEntryError(Exception):
    """A spool file does not say where it came from. The text holds no values from the dataset."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """An object as it was announced by its C-STORE command, and its provenance.

    Attributes
    ----------
    id
        Name of the arrival; sorts by time.
    tenant, source, association_id
        Whose it is, and who sent it.
    sop_class_uid, sop_instance_uid
        Affected SOP Class and Instance UID of the command, not checked.
    transfer_syntax_uid
        Of the presentation context.
    received_at
        UTC.
    traceparent
        W3C trace context of the span of its C-STORE; empty if there is none.
    """

    id: str
    tenant: str
    source: Source
    association_id: str
    sop_class_uid: str
    sop_instance_uid: str
    transfer_syntax_uid: str
    received_at: datetime
    traceparent: str = ""

    def meta(self) -> Meta:
        """Give the file meta information from which `from_meta` makes the same arrival."""
        private = {
            "arrival": self.id,
            "tenant": self.tenant,
            "association": self.association_id,
            "received_at": self.received_at.isoformat(),
            "traceparent": self.traceparent,
            "sop_class_uid": self.sop_class_uid,
            "sop_instance_uid": self.sop_instance_uid,
            **self.source.model_dump(exclude_none=True),
        }
        return Meta(self.sop_class_uid, self.sop_instance_uid, self.transfer_syntax_uid, private)


def from_meta(meta: Meta) -> Arrival:
    """Read an arrival back from its file. Raises DamagedEntryError."""
    found = meta.private
    try:
        return Arrival(
            id=found["arrival"],
            tenant=found["tenant"],
            source=Source.model_validate(found),
            association_id=found["association"],
            sop_class_uid=found["sop_class_uid"],
            sop_instance_uid=found["sop_instance_uid"],
            transfer_syntax_uid=meta.transfer_syntax_uid,
            received_at=datetime.fromisoformat(found["received_at"]),
            traceparent=found["traceparent"],
        )
    except (KeyError, ValueError, ValidationError) as error:
        raise DamagedEntryError(f"its provenance is incomplete ({type(error).__name__})") from error


@dataclass(frozen=True, slots=True)
class Entry:
    """An arrival that is on stable storage in the spool and not indexed yet.

    Attributes
    ----------
    arrival
        What it is.
    study_uid, series_uid
        Of the dataset; empty where `accepted` is false and they could not be read.
    path
        Its Part 10 file.
    content_hash
        SHA-256 of the dataset's bytes, without preamble and file meta.
    size
        Length of the file in bytes.
    accepted
        Whether the sender was told success; otherwise the bytes go to the quarantine.
    objection
        Why they do; None with `accepted`, and in what an earlier release has spooled.
    uploaded
        Whether it is an object already, by a record that this replica has of it.
    """

    arrival: Arrival
    study_uid: str
    series_uid: str
    path: Path
    content_hash: str
    size: int
    accepted: bool
    objection: Objection | None = None
    uploaded: bool = False

    @property
    def study(self) -> tuple[str, str]:
        """Tenant and Study Instance UID."""
        return self.arrival.tenant, self.study_uid

    @property
    def object_key(self) -> str:
        """Key in the object store, each arrival's own: known before its content is, and never another content's."""
        name = f"{self.arrival.sop_instance_uid}.{self.arrival.id}.dcm"
        return f"{self.arrival.tenant}/{self.study_uid}/{self.series_uid}/{name}"

    @property
    def quarantine_key(self) -> str:
        """Key of the object if it is put aside for people to look at."""
        return f"quarantine/{self.arrival.tenant}/{self.arrival.id}.dcm"


def arrival_id(moment: datetime, noise: bytes) -> str:
    """Name an arrival: microseconds since 1970 and random bytes in hexadecimal, so that names sort by time."""
    return f"{int(moment.timestamp() * 1_000_000):016x}-{noise.hex()}"


def source_document(source: Source) -> dict[str, Any]:
    """Give a source as it is kept in tables."""
    return source.model_dump(mode="json", exclude_none=True)
