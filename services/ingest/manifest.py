"""Writes the manifest of a study version while its instances come by, and compares it with the version before."""

import hashlib
import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, BinaryIO, Final, Self, cast

from contracts.fact import Attributes
from contracts.instances import StoredInstance
from contracts.manifest import set_hash
from services.ingest.assembly import Aggregate

#: Beyond, it goes on in a temporary file: a study may have more instances than the memory takes.
_IN_MEMORY: Final = 4 << 20
_INSTANCE: Final = b'{"sop_instance_uid":'


@dataclass(frozen=True)
class Difference:
    """SOP Instance UIDs that a version has and the one before had not, or had with another content; both sorted."""

    added: tuple[str, ...]
    replaced: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.added) + len(self.replaced)


def difference(now: Mapping[str, str], before: Mapping[str, str]) -> Difference:
    """Compare two versions, both by SOP Instance UID with the hash of the content."""
    return Difference(
        added=tuple(sorted(uid for uid in now if uid not in before)),
        replaced=tuple(sorted(uid for uid, digest in now.items() if before.get(uid, digest) != digest)),
    )


def contents(manifest: BinaryIO) -> dict[str, str]:
    """Read which instances a manifest names: SOP Instance UID to hash of the content. Raises ValueError."""
    found = {}
    for line in manifest:
        # As `Draft` writes them, an instance a line.
        if line.startswith(_INSTANCE):
            instance = json.loads(line.rstrip(b",\n"))
            found[instance["sop_instance_uid"]] = instance["content_hash"]
    if not found:
        manifest.seek(0)
        for instance in json.load(manifest)["instances"]:
            found[instance["sop_instance_uid"]] = instance["content_hash"]
    return found


class Draft:
    """A manifest that is being written. It is closed by leaving its block.

    Parameters
    ----------
    tenant, study_uid, version
        What it is the manifest of.
    """

    def __init__(self, tenant: str, study_uid: str, version: int) -> None:
        self._file = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 (closed by __exit__)
        self._digest = hashlib.sha256()
        self._aggregate = Aggregate()
        self._contents: dict[str, str] = {}
        #: Of the whole, once it is closed: see `contracts.manifest.set_hash`.
        self.content_hash = ""
        #: Of the study, once it is closed.
        self.attributes: Attributes = {}
        self.size = 0
        head = {"tenant": tenant, "study_instance_uid": study_uid, "version": version}
        self._write(_json(head)[:-1] + b',"instances":[')

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def add(self, instances: Iterable[StoredInstance]) -> None:
        """Write instances, in the order of their UIDs; each with all its base attributes, and once."""
        for each in instances:
            self._write(b",\n" if self._contents else b"\n")
            self._write(each.model_dump_json().encode())
            self._contents[each.sop_instance_uid] = each.content_hash
            self._aggregate.add(each)

    def close(self, before: Mapping[str, str]) -> Difference:
        """Write the rest: hash, attributes, and what differs from the version before, by its `contents`."""
        # Once: of a study of many instances this takes a while.
        self.content_hash, self.attributes = set_hash(self._contents.items()), self._aggregate.attributes()
        found = difference(self._contents, before)
        rest = {
            "content_hash": self.content_hash,
            "attributes": self.attributes,
            "added": found.added,
            "replaced": found.replaced,
        }
        self._write(b"\n]," + _json(rest)[1:] + b"\n")
        return found

    @property
    def count(self) -> int:
        """Number of instances."""
        return len(self._contents)

    @property
    def series_count(self) -> int:
        """Number of series."""
        return self._aggregate.series_count

    @property
    def digest(self) -> str:
        """SHA-256 of what was written, 64 hexadecimal digits."""
        return self._digest.hexdigest()

    def file(self) -> BinaryIO:
        """Give what was written, from its begin."""
        self._file.seek(0)
        return cast("BinaryIO", self._file)

    def _write(self, data: bytes) -> None:
        self._file.write(data)
        self._digest.update(data)
        self.size += len(data)


def _json(value: Mapping[str, Any]) -> bytes:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()
