"""A quarantined dataset as it will be when it is released: read, corrected, and checked like an arrival."""

import hashlib
import io
import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, BinaryIO, Final, cast

from pydicom.datadict import keyword_for_tag
from pydicom.uid import DeflatedExplicitVRLittleEndian, ExplicitVRLittleEndian
from sqlalchemy import Row

from libs.dicom import header, part10, rewrite, uid
from libs.dicom.header import Header, UnreadableDatasetError
from libs.dicom.rewrite import Note, NotRewritableError, Rewriting
from libs.storage.objects import ObjectMissingError, ObjectStore
from services.ingest import identity
from services.ingest.arrival import Arrival, DamagedEntryError, Entry, from_meta
from services.ingest.correction import CorrectionError, Modification, Trust, checked
from services.ingest.spool import Spool, read_entry

_IN_MEMORY: Final = 1 << 20
#: What stands before a dataset of ours is shorter.
_HEAD: Final = 1 << 16
_MODIFYING_SYSTEM: Final = "KIVUKO"


class RefusedError(Exception):
    """It can't be done. The text says why, and what to do, without values.

    Parameters
    ----------
    title
        What kind of refusal, the same words each time.
    detail, advice
        What happened, and what to do next.
    """

    safe_to_log = True

    def __init__(self, title: str, detail: str, advice: str) -> None:
        super().__init__(detail)
        self.title = title
        self.detail = detail
        self.advice = advice


@dataclass(frozen=True)
class Wish:
    """What a person asks for.

    Attributes
    ----------
    corrections
        New values by DICOM keyword.
    trust
        Whose word counts where command and dataset name different instances; None if nothing was said.
    replace
        Whether to take the place of what is kept under the same SOP Instance UID.
    modification
        What the Original Attributes Sequence says of it.
    reason
        Why, in the person's words.
    """

    corrections: Mapping[str, str] = field(default_factory=dict)
    trust: Trust | None = None
    replace: bool = False
    modification: Modification = "CORRECT"
    reason: str = ""


@dataclass(frozen=True)
class Candidate:
    """A quarantined dataset as it will be.

    Attributes
    ----------
    found
        Its header.
    rewriting
        What is done to it for that.
    transfer_syntax
        Its transfer syntax, before and after.
    """

    found: Header
    rewriting: Rewriting
    transfer_syntax: str

    @property
    def corrected(self) -> tuple[str, ...]:
        """DICOM keywords of the attributes that change."""
        return tuple(keyword_for_tag(tag) for tag in self.rewriting.changed)


class Shelf:
    """The quarantined objects. Blocking: asyncio code calls it in a thread.

    Every method raises RefusedError if the bytes are gone, damaged, or no dataset, and what the object store raises.
    """

    def __init__(self, objects: ObjectStore, spool: Spool) -> None:
        self._objects = objects
        self._spool = spool

    def read(self, row: Row[Any], wish: Wish, at: datetime) -> Candidate:
        """Read a dataset as it will be. Raises RefusedError, too, if it can't be taken into any study.

        Parameters
        ----------
        row
            The quarantine's row.
        wish
            What a person asks for.
        at
            Time that its Original Attributes Sequence will say, UTC.
        """
        arrival, offset = self._arrival(row)
        syntax = arrival.transfer_syntax_uid
        try:
            values = checked(wish.corrections)
            with self._open(row, offset) as file:
                found = header.read(file, syntax)
            values = checked(_by_trust(row, arrival, found, wish)) | values
            with self._open(row, offset) as file:
                note = Note(at, _MODIFYING_SYSTEM, row.source["node"][:64], wish.modification)
                rewriting = rewrite.plan(file, syntax, values, note)
            if rewriting.edits:
                with self._open(row, offset) as file:
                    found = _as_rewritten(file, syntax, rewriting)
                _require_effect(found, values)
        except UnreadableDatasetError as error:
            raise _unreadable(error) from error
        except CorrectionError as error:
            raise RefusedError("Not a correction", f"{error}.", "Give another value.") from error
        except NotRewritableError as error:
            advice = "Correct it at the sender, and have it sent again."
            raise RefusedError("Not correctable", f"{error}.", advice) from error
        _require_identity(found)
        return Candidate(found, rewriting, syntax)

    def enter(self, row: Row[Any], candidate: Candidate, arrival: Arrival) -> Entry:
        """Make an entry of the spool of it; on stable storage when this returns. Raises SpoolFullError and its kin."""
        _, offset = self._arrival(row)
        with self._open(row, offset) as file:
            checking = _Hashing(file)
            pieces = rewrite.stream(checking, candidate.transfer_syntax, candidate.rewriting.edits)
            try:
                path = self._spool.bring(arrival.id, _Pieces(part10.encode(arrival.meta()), pieces))
            except UnreadableDatasetError as error:
                raise _damaged() from error
            checking.drain()
        if checking.hexdigest() != row.content_hash:
            self._spool.discard(path)
            raise _damaged()
        try:
            return read_entry(path)
        except (part10.NotPart10Error, DamagedEntryError) as error:
            self._spool.discard(path)
            raise _damaged() from error

    def document(self, row: Row[Any]) -> dict[str, Any]:
        """Give its whole header after the DICOM JSON Model, values of the patient included."""
        arrival, offset = self._arrival(row)
        try:
            with self._open(row, offset) as file:
                return header.read_whole(file, arrival.transfer_syntax_uid)[1]
        except UnreadableDatasetError as error:
            raise _unreadable(error) from error

    def _arrival(self, row: Row[Any]) -> tuple[Arrival, int]:
        """Give what the object says of itself, and where its dataset begins."""
        with self._open(row, 0, _HEAD) as file:
            begin = io.BytesIO(file.read())
        try:
            meta, offset = part10.decode(begin)
            return from_meta(meta), offset
        except (part10.NotPart10Error, DamagedEntryError) as error:
            raise _damaged() from error

    def _open(self, row: Row[Any], offset: int, length: int | None = None) -> BinaryIO:
        if not row.object_key:
            advice = "Have the sender send it again."
            raise RefusedError("Bytes are gone", "The bytes of this entry were deleted.", advice)
        try:
            return self._objects.open(row.object_key, offset, length)
        except ObjectMissingError as error:
            raise _damaged() from error


class _Hashing(io.RawIOBase, BinaryIO):
    """Hashes what is read of a file."""

    def __init__(self, source: BinaryIO) -> None:
        self._source = source
        self._digest = hashlib.sha256()

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        data = self._source.read(-1 if size is None else size)
        self._digest.update(data)
        return data

    def drain(self) -> None:
        while self.read(_IN_MEMORY):
            pass

    def hexdigest(self) -> str:
        return self._digest.hexdigest()


class _Pieces(io.RawIOBase, BinaryIO):
    """A file made of pieces that are not all there at once."""

    def __init__(self, first: bytes, pieces: Iterator[bytes]) -> None:
        self._left = first
        self._pieces = pieces

    def readable(self) -> bool:
        return True

    def read(self, size: int | None = -1, /) -> bytes:
        while not self._left:
            piece = next(self._pieces, None)
            if piece is None:
                return b""
            self._left = piece
        most = len(self._left) if size is None or size < 0 else size
        data, self._left = self._left[:most], self._left[most:]
        return data


def _as_rewritten(file: BinaryIO, syntax: str, rewriting: Rewriting) -> Header:
    """Read the header as it will be; on disk, if it is long."""
    with tempfile.SpooledTemporaryFile(_IN_MEMORY) as head:
        for piece in rewrite.head(file, syntax, rewriting):
            head.write(piece)
        head.seek(0)
        inflated = ExplicitVRLittleEndian if syntax == DeflatedExplicitVRLittleEndian else syntax
        return header.read(cast("BinaryIO", head), str(inflated))


def _by_trust(row: Row[Any], arrival: Arrival, found: Header, wish: Wish) -> dict[str, str]:
    """Say what has to be corrected where command and dataset name different instances, as the person decided."""
    said = {"SOPClassUID": arrival.sop_class_uid, "SOPInstanceUID": arrival.sop_instance_uid}
    stands = {"SOPClassUID": found.sop_class_uid, "SOPInstanceUID": found.sop_instance_uid}
    differing = {name: value for name, value in said.items() if value != stands[name] and name not in wish.corrections}
    if not differing or row.reason != "identity-mismatch" or wish.trust == "dataset":
        return {}
    if wish.trust is None and all(uid.is_valid(value) for value in (*said.values(), *stands.values())):
        raise RefusedError(
            "Command and dataset differ",
            f"The command and the dataset name another {' and '.join(differing)}.",
            "Say which is right: trust `dataset` to release it as it is, `command` to write the command's into it.",
        )
    if wish.trust is None:
        # Only one of them can be right, and a missing identifier is not guessed.
        return {}
    return differing


def _require_effect(found: Header, values: Mapping[int, str]) -> None:
    """Make sure that whoever reads the dataset gets what was asked for, however odd it is otherwise."""
    for tag, value in values.items():
        keyword = keyword_for_tag(tag)
        if found.attributes.get(keyword, "") not in (value, value.rstrip("^ ")):
            raise NotRewritableError(f"the dataset is so odd that {keyword} would not be read as it was written")


def _require_identity(found: Header) -> None:
    objection = identity.check(found.sop_class_uid, found.sop_instance_uid, found)
    if objection is not None:
        detail = objection.detail.replace("the command's SOP Class or Instance UID", "the SOP Class or Instance UID")
        raise RefusedError("Not complete", f"It can't be taken into a study: {detail}.", "Correct that too.")


def _unreadable(error: UnreadableDatasetError) -> RefusedError:
    advice = "Have the sender send it again, then discard this entry."
    return RefusedError("Unreadable dataset", f"The bytes are no dataset that can be read: {error}.", advice)


def _damaged() -> RefusedError:
    return RefusedError(
        "Bytes are damaged",
        "The bytes of this entry are missing in the object store, or are not what arrived.",
        "Restore the object store from a backup, or have the sender send it again.",
    )
