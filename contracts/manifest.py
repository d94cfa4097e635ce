"""The manifest of a study version: an object in the store that names every instance of the version."""

import hashlib
from collections.abc import Iterable

from contracts.fact import Attributes, Fact, Sha256, Uid, personal, plain, pseudonym
from contracts.instances import StoredInstance


class Manifest(Fact):
    """Every instance of one version of a study, sorted by SOP Instance UID."""

    tenant: str = plain("Tenant that owns the study.")
    study_instance_uid: Uid = pseudonym("Study Instance UID (0020,000D).")
    version: int = plain("Version of the study.", ge=1)
    content_hash: Sha256 = plain("Hash of the set of instances: see set_hash.")
    attributes: Attributes = personal("Study-level attributes by DICOM keyword.")
    instances: tuple[StoredInstance, ...] = pseudonym("The instances, with all their base attributes.")
    added: tuple[Uid, ...] = pseudonym("SOP Instance UIDs that the version before did not have.", default=())
    replaced: tuple[Uid, ...] = pseudonym("SOP Instance UIDs whose content is another than before.", default=())


def set_hash(instances: Iterable[tuple[str, str]]) -> str:
    """Hash a set of instances, in any order.

    Parameters
    ----------
    instances
        Pairs of SOP Instance UID and content hash (64 hexadecimal digits).

    Returns
    -------
    str
        SHA-256, 64 hexadecimal digits, over the sorted lines `UID SP HASH LF` in ASCII.
    """
    lines = sorted(f"{uid} {digest}\n" for uid, digest in set(instances))
    return hashlib.sha256("".join(lines).encode("ascii")).hexdigest()
