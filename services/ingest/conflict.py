"""Other content under a SOP Instance UID that is kept already: what is done with it. Pure."""

from dataclasses import dataclass
from datetime import datetime
from typing import Literal

from contracts.definition import Definition, SameUid

#: `duplicate`: the same bytes, nothing to do. `superseded`: an older content of a newer one that stands.
Outcome = Literal["duplicate", "superseded", "quarantine", "keep-first", "new-version"]


@dataclass(frozen=True)
class Content:
    """What is, or is about to be, kept under a SOP Instance UID.

    Attributes
    ----------
    study_uid
        Study Instance UID of the dataset.
    content_hash
        SHA-256 of the dataset, hexadecimal.
    received_at
        When it was durable, UTC.
    """

    study_uid: str
    content_hash: str
    received_at: datetime


def policy(definition: Definition | None, node: str) -> SameUid:
    """Say what the network definition wants for a node: the node's own word, else the network's.

    Without a definition, and for a caller that is in none, it is `quarantine`: people decide.
    """
    if definition is None:
        return "quarantine"
    known = definition.nodes.get(node)
    own = None if known is None else known.same_uid
    return definition.same_uid if own is None else own


def decide(kept: Content, arrived: Content, wanted: SameUid) -> Outcome:
    """Decide what becomes of an arrival whose SOP Instance UID is kept already.

    An instance of another study is put aside whatever the policy: a new version would take it out of the one study
    and into the other without a word, and the first being kept would leave the other study without it.

    Of versions the one that was received last stands, whatever the order in which they are indexed.

    Parameters
    ----------
    kept
        What the index names.
    arrived
        What came.
    wanted
        Policy for the node that sent it.
    """
    if kept.content_hash == arrived.content_hash:
        return "duplicate"
    if kept.study_uid != arrived.study_uid:
        return "quarantine"
    if wanted == "new-version" and _rank(arrived) < _rank(kept):
        return "superseded"
    return wanted


def _rank(content: Content) -> tuple[datetime, str]:
    return content.received_at, content.content_hash
