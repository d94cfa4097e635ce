"""Events about SOP instances that arrived. Producer: ingest."""

from typing import Literal

from contracts.fact import (
    AeTitle,
    Attributes,
    Fact,
    Instant,
    ObjectRef,
    Sha256,
    Source,
    Uid,
    personal,
    plain,
    pseudonym,
)


class StoredInstance(Fact):
    """One SOP instance that is durable and readable by every egress replica."""

    sop_instance_uid: Uid = pseudonym("SOP Instance UID (0008,0018).")
    sop_class_uid: Uid = plain("SOP Class UID (0008,0016).")
    series_instance_uid: Uid = pseudonym("Series Instance UID (0020,000E).")
    transfer_syntax_uid: Uid = plain("Transfer syntax of the dataset as received and kept.")
    content_hash: Sha256 = plain("SHA-256 of the dataset's bytes as received, without preamble and file meta.")
    object_key: str = pseudonym("Key of the Part 10 object in the object store.")
    size: int = plain("Length of the Part 10 object in bytes.", ge=0)
    received_at: Instant = plain("When the last byte was durable, UTC.")
    attributes: Attributes = personal(
        "Base attributes by DICOM keyword, those that all instances of the batch share left out.", default_factory=dict
    )


class InstancesStored(Fact):
    """A batch of instances of ONE study was stored and indexed."""

    study_instance_uid: Uid = pseudonym("Study Instance UID (0020,000D).")
    source: Source = plain("Where the batch came from.")
    association_id: str = plain("The association that brought the batch.")
    attributes: Attributes = personal("Base attributes by DICOM keyword that all instances of the batch share.")
    instances: tuple[StoredInstance, ...] = pseudonym("The instances, in order of arrival.", min_length=1)
    headers: ObjectRef = pseudonym("Full headers of the batch: gzipped JSON in the object store.")


QuarantineReason = Literal[
    "identity-mismatch",  # the dataset's UIDs differ from the command's, or are missing or malformed
    "unreadable-dataset",  # the bytes are not a dataset in the negotiated transfer syntax
    "content-conflict",  # another content is already kept under this SOP Instance UID
]


class InstanceQuarantined(Fact):
    """An object was kept but not taken into any study: people must look at it."""

    quarantine_id: str = plain("Identifier of the quarantine entry.")
    reason: QuarantineReason = plain("Why, as a fixed word.")
    detail: str = plain("Why, as a sentence without values from the dataset.")
    study_instance_uid: Uid | None = pseudonym("Study Instance UID, if one could be read.", default=None)
    sop_instance_uid: Uid | None = pseudonym("SOP Instance UID from the command, if it was valid.", default=None)
    source: Source = plain("Where the object came from.")
    size: int = plain("Bytes kept.", ge=0)


class AssociationRefused(Fact):
    """A caller was turned away before it could send anything."""

    calling_aet: AeTitle | None = plain("Calling AE title, if it was a valid one.", default=None)
    called_aet: AeTitle | None = plain("Called AE title, if it was a valid one.", default=None)
    address: str = plain("Source address, without the port.")
    reason: str = plain("Why, as a sentence.")
