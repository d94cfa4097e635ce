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
    replaces: Sha256 | None = plain(
        "Hash of the content that this one takes the place of, where other content under a UID makes a new version.",
        default=None,
    )


class InstancesStored(Fact):
    """A batch of instances of ONE study was stored and indexed."""

    study_instance_uid: Uid = pseudonym("Study Instance UID (0020,000D).")
    source: Source = plain("Where the batch came from.")
    association_id: str = plain("The association that brought the batch.")
    attributes: Attributes = personal("Base attributes by DICOM keyword that all instances of the batch share.")
    instances: tuple[StoredInstance, ...] = pseudonym("The instances, in order of arrival.", min_length=1)
    headers: ObjectRef = pseudonym("Full headers of the batch: gzipped JSON in the object store.")
    after_version: int | None = plain(
        "Last version of the study when the batch was indexed, 0 before the first: what came again after the copy of "
        "that version expired is told by it from what expired. None from a release that did not say.",
        ge=0,
        default=None,
    )


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


Resolution = Literal["released", "discarded"]


class QuarantineResolved(Fact):
    """A person has decided on a quarantined object."""

    quarantine_id: str = plain("Identifier of the quarantine entry.")
    resolution: Resolution = plain("released: taken into a study, corrected or as it was; discarded: never will be.")
    reason: str = plain("Why, as the person wrote it; without personal data.")
    principal: str = plain("Who decided.")
    corrected: tuple[str, ...] = plain("DICOM keywords of the attributes that were corrected.", default=())
    study_instance_uid: Uid | None = pseudonym("Study that it was taken into.", default=None)
    sop_instance_uid: Uid | None = pseudonym("SOP Instance UID under which it was taken.", default=None)
    content_hash: Sha256 | None = plain("Hash of the dataset as taken, corrections included.", default=None)


ConflictPolicy = Literal["quarantine", "keep-first", "new-version"]


class InstanceConflicted(Fact):
    """Other content arrived under a SOP Instance UID that is kept already. Nothing of either is lost."""

    study_instance_uid: Uid = pseudonym("Study Instance UID (0020,000D) of what is kept.")
    sop_instance_uid: Uid = pseudonym("SOP Instance UID (0008,0018).")
    policy: ConflictPolicy = plain("What the network definition said to do, and was done.")
    kept_hash: Sha256 = plain("Hash of the content that was kept before.")
    other_hash: Sha256 = plain("Hash of the content that arrived.")
    quarantine_id: str | None = plain(
        "Where the arrived content was put aside, unless it is the new version.", default=None
    )
    source: Source = plain("Where the other content came from.")


class AssociationRefused(Fact):
    """A caller was turned away before it could send anything."""

    calling_aet: AeTitle | None = plain("Calling AE title, if it was a valid one.", default=None)
    called_aet: AeTitle | None = plain("Called AE title, if it was a valid one.", default=None)
    address: str = plain("Source address, without the port.")
    reason: str = plain("Why, as a sentence.")
