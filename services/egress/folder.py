"""A folder as a destination: what it is, and where in it an instance belongs."""

import re
from dataclasses import dataclass
from pathlib import Path

_TENANT = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}")
_UID = re.compile(r"[0-9]+(\.[0-9]+)*")
_LONGEST_UID = 64


@dataclass(frozen=True)
class FolderTarget:
    """A folder that is there already, on a file system of this machine or one that it has mounted.

    Attributes
    ----------
    path
        Absolute path.
    associations
        Writers at a time, of all replicas together.
    """

    path: Path
    associations: int


@dataclass(frozen=True)
class Owner:
    """Whose an instance is: two tenants may have the same UIDs, and share nothing."""

    tenant: str
    study_instance_uid: str


def names(owner: Owner, sop_instance_uid: str) -> tuple[str, str, str]:
    """Give the names of an instance's two folders and of its file: `TENANT/STUDY/SOP.dcm`.

    Raises
    ------
    ValueError
        One of them is fit for no name. The text does not repeat it.
    """
    if not _TENANT.fullmatch(owner.tenant):
        raise ValueError("its tenant can't be the name of a folder")
    for uid in (owner.study_instance_uid, sop_instance_uid):
        if len(uid) > _LONGEST_UID or not _UID.fullmatch(uid):
            raise ValueError("one of its UIDs is not made of digits and dots, so it can't be a name in a folder")
    return owner.tenant, owner.study_instance_uid, f"{sop_instance_uid}.dcm"
