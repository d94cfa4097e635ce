"""Transforms of one file, one after the other: values, de-identification, pixels, transfer syntax."""

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import BinaryIO, Final

from pydicom.dataset import Dataset

from contracts.definition import Blank, Transform
from libs.dicom import part10
from libs.dicom.transcode import TARGETS, NotTranscodableError, transcode
from libs.dicom.uid import is_valid
from services.egress.transforms import instance as instances
from services.egress.transforms import pixels, provenance, remarks
from services.egress.transforms.deidentify import deidentify, remap
from services.egress.transforms.edits import Edits
from services.egress.transforms.errors import UntransformableError
from services.egress.transforms.instance import EXPLICIT, UNCOMPRESSED, Instance
from services.egress.transforms.pseudonym import Key, Keys, derived_uid

#: Part of every version: higher when the same definition gives other bytes.
ENGINE: Final = 1
_CHUNK: Final = 1 << 20
_MAC_PARAMETERS: Final = 0x4FFE0001
_ICON: Final = 0x00880200
_BLANKED: Final = "Areas with burned-in text made black"
_LONGEST_DERIVATION: Final = 1024
#: Makes an empty file that is gone when it is closed.
Scratch = Callable[[], BinaryIO]


@dataclass(frozen=True)
class Step:
    """A transform, and what it is called."""

    name: str
    transform: Transform


@dataclass(frozen=True)
class Transformed:
    """What came out.

    Attributes
    ----------
    sop_class_uid, sop_instance_uid, study_instance_uid, transfer_syntax_uid
        Of the result.
    content_hash
        SHA-256 of its dataset, 64 hexadecimal digits.
    size
        Length of the Part 10 file in bytes.
    """

    sop_class_uid: str
    sop_instance_uid: str
    study_instance_uid: str
    transfer_syntax_uid: str
    content_hash: str
    size: int


def version(steps: Sequence[Step]) -> str:
    """Give what tells transforms apart: 16 hexadecimal digits that follow from all that they do."""
    said = [each.transform.model_dump(mode="json", by_alias=True, exclude_defaults=True) for each in steps]
    return hashlib.sha256(json.dumps([ENGINE, said], sort_keys=True).encode()).hexdigest()[:16]


def run(
    source: BinaryIO, result: BinaryIO, steps: Sequence[Step], keys: Keys, at: datetime, scratch: Scratch
) -> Transformed:
    """Write a Part 10 file once more, as transforms demand. The same input gives the same bytes.

    Parameters
    ----------
    source
        The file, from its preamble on. It is only read.
    result
        An empty file, opened to be written and read. What it holds after an error is to be thrown away.
    steps
        One after the other.
    keys
        Of the projects that they name.
    at
        The time that the Standard wants noted of a change: that of the arrival, so that it is always the same one.
    scratch
        Makes files for what is in between.

    Raises
    ------
    UntransformableError
        The instance can't be had like this.
    OSError
        A file can't be read or written.
    """
    with scratch() as first, scratch() as second:
        current, following = source, first
        for number, step in enumerate(steps):
            _clear(following)
            target = result if number == len(steps) - 1 else following
            try:
                study = _step(current, target, step, keys, at, scratch)
            except (UntransformableError, NotTranscodableError) as error:
                raise UntransformableError(f"transform {step.name}: {error}") from error
            current, following = target, second if target is first else first
    return _described(result, study)


def _step(source: BinaryIO, result: BinaryIO, step: Step, keys: Keys, at: datetime, scratch: Scratch) -> str:
    """Apply one transform; give the study of the result."""
    transform = step.transform
    with scratch() as inflated, scratch() as plain, scratch() as changed:
        source.seek(0)
        found = instances.read(source, inflated)
        # A report of a device has no pixels that something could be burned into.
        shows = found.pixels.end > found.pixels.start or "Rows" in found.header
        device = pixels.fitting(transform.blank, found.header) if shows else None
        compressed = found.transfer_syntax_uid not in UNCOMPRESSED
        if device is not None and device.areas and compressed:
            source.seek(0)
            transcode(source, plain, EXPLICIT)
            plain.seek(0)
            found = instances.read(plain, inflated)
        _change(found, transform, keys, at, device)
        target = result if transform.transfer_syntax is None else changed
        where = instances.write(found, target)
        if device is not None and device.areas:
            pixels.blank(target, where, found.header, device.areas, little_endian=found.form.little_endian)
        if transform.deidentify is not None and where.items >= 0:
            remarks.empty(target, where.items)
        if transform.transfer_syntax is not None:
            changed.seek(0)
            transcode(changed, result, TARGETS[transform.transfer_syntax], ratio=transform.ratio)
        return str(found.header.get("StudyInstanceUID", ""))


def _change(found: Instance, transform: Transform, keys: Keys, at: datetime, device: Blank | None) -> None:
    header = found.header
    edits = Edits(header, transform, keys)
    edits.apply()
    kinds = _kinds(transform)
    remapped = transform.uids == "remap"
    if edits.before and transform.originals and not remapped and transform.deidentify is None:
        noted = {tag: element for tag, element in edits.before.items() if tag not in edits.secret}
        if noted:
            provenance.note_originals(header, noted, at)
    # Inside what was just noted as well.
    provenance.forget(header, edits.hidden)
    if remapped:
        key = keys[str(transform.project)]
        remap(header, key)
        remap(found.tail, key)
    if transform.deidentify is not None:
        if found.pixels.strange:
            raise UntransformableError("group 7FE0, of its pixel data, holds what the Standard does not know")
        key = keys[str(transform.deidentify.project or transform.project)]
        deidentify(header, transform.deidentify, key, blanked=device is not None)
    if device is not None and device.areas:
        _mark_blanked(header, transform, device)
    if kinds or (device is not None and device.areas):
        said = kinds + (["areas of the image blanked"] if device is not None and device.areas else [])
        told = None if transform.deidentify is not None else at
        provenance.note_equipment(header, said, told, deidentified=transform.deidentify is not None)
        # What was signed is not what is sent.
        header.pop(_MAC_PARAMETERS, None)
        found.tail = _private_only(found.tail, keep=transform.deidentify is None)


def _kinds(transform: Transform) -> list[str]:
    """Name what is done to values."""
    done = [name.rstrip("_") for name in ("copy_", "regex", "map", "prefix", "hash", "set", "remove")]
    kinds = [name for name in done if getattr(transform, "copy_" if name == "copy" else name)]
    if transform.uids == "remap":
        kinds.append("uids")
    return [*kinds, "deidentify"] if transform.deidentify is not None else kinds


def _private_only(tail: Dataset, *, keep: bool) -> Dataset:
    kept = Dataset()
    for tag in tail.keys():  # noqa: SIM118 (a dataset iterates over elements)
        if keep and int(tag) & 0x10000:
            kept[tag] = tail.get_item(tag)
    return kept


def _mark_blanked(header: Dataset, transform: Transform, device: Blank) -> None:
    """Say that the image is another one: PS3.3 sections C.7.6.1.1.2 and C.8.6.1.1."""
    kept = transform.uids == "keep" and (transform.deidentify is None or "retain-uids" in transform.deidentify.options)
    if kept:
        header.SOPInstanceUID = derived_uid(str(header.get("SOPInstanceUID", "")), f"blank {device.areas}")
    kind = [str(value) for value in (header.get("ImageType") or [])] or ["DERIVED", "SECONDARY"]
    header.ImageType = ["DERIVED", *kind[1:]]
    said = str(header.get("DerivationDescription") or "")
    header.DerivationDescription = f"{said}; {_BLANKED}"[-_LONGEST_DERIVATION:] if said else _BLANKED
    # It shows what was there, small.
    header.pop(_ICON, None)


def _described(result: BinaryIO, study: str) -> Transformed:
    result.seek(0)
    meta, offset = part10.decode(result)
    digest, size = hashlib.sha256(), offset
    while piece := result.read(_CHUNK):
        digest.update(piece)
        size += len(piece)
    if not is_valid(meta.sop_instance_uid) or not is_valid(study):
        raise UntransformableError("it has no valid SOP and Study Instance UID")
    return Transformed(
        meta.sop_class_uid, meta.sop_instance_uid, study, meta.transfer_syntax_uid, digest.hexdigest(), size
    )


def _clear(file: BinaryIO) -> None:
    file.seek(0)
    file.truncate()


def keys_of(secrets: "dict[str, bytes]", tenant: str) -> dict[str, Key]:
    """Give the keys of projects in the hands of a tenant."""
    return {project: Key(secret, tenant) for project, secret in secrets.items()}
