"""The event about storage commitment that we asked for, PS3.4 annex J.

Producers: ingest, at whose port a report arrives that comes on an association of its own; egress, for one that comes on
the association of the request.
"""

from contracts.fact import Fact, Uid, plain, pseudonym


class Committed(Fact):
    """One instance that the archive answers for."""

    sop_class_uid: Uid = plain("Referenced SOP Class UID (0008,1150).")
    sop_instance_uid: Uid = pseudonym("Referenced SOP Instance UID (0008,1155).")


class NotCommitted(Committed):
    """One instance that the archive does not answer for."""

    failure_reason: int = plain("Failure Reason (0008,1197), PS3.3 section C.14.1.1.", ge=0, le=0xFFFF)


class CommitmentReported(Fact):
    """An archive said which instances it answers for; a long report is several events with the same transaction."""

    transaction_uid: Uid = plain("Transaction UID (0008,1195) of the request, which is ours.")
    node: str = plain("Node that reported, as it was admitted.")
    committed: tuple[Committed, ...] = pseudonym("Referenced SOP Sequence (0008,1199); at most 500.", default=())
    failed: tuple[NotCommitted, ...] = pseudonym("Failed SOP Sequence (0008,1198); at most 500.", default=())
