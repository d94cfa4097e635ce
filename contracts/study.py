"""Events about studies as a whole. Producer: ingest, and rules where it says so."""

from typing import Literal

from contracts.fact import Attributes, Fact, Instant, ObjectRef, Sha256, Source, Uid, personal, plain, pseudonym


class Sign(Fact):
    """One sign for or against that a study is complete."""

    kind: str = plain("association-ended, quiet, numbers, announced, waited, ordered or performed.")
    weight: float = plain("What it adds to the score: above 0 speaks for, below 0 against.")
    detail: str = plain("The same as a sentence.")


class _StudyVersion(Fact):
    study_instance_uid: Uid = pseudonym("Study Instance UID (0020,000D).")
    version: int = plain("Version of the study, from 1; each amendment adds one.", ge=1)
    instance_count: int = plain("Number of instances in this version.", ge=1)
    series_count: int = plain("Number of series in this version.", ge=1)
    content_hash: Sha256 = plain("Hash of the set of instances: see contracts.manifest.set_hash.")
    manifest: ObjectRef = pseudonym("The manifest: every instance of this version, as JSON in the object store.")
    first_arrival: Instant = plain("When the first instance was durable, UTC.")
    last_arrival: Instant = plain("When the last instance of this version was durable, UTC.")
    source: Source = plain("The first arrival.")
    sites: tuple[str, ...] = plain("All sites that sent instances, sorted.")
    attributes: Attributes = personal("Study-level attributes by DICOM keyword, independent of the order of arrival.")
    evidence: tuple[str, ...] = plain("What was taken as a sign that the study is complete.")
    signs: tuple[Sign, ...] = plain("The same with the weight of each.", default=())
    score: float | None = plain("How sure it is, from 0 to 1: see docs/assembly.md.", ge=0, le=1, default=None)


class StudyCompleted(_StudyVersion):
    """A study is complete as far as the evidence goes: its first version."""


class StudyAmended(_StudyVersion):
    """Instances arrived after the study was declared complete: a further version."""

    added_count: int = plain("Number of instances that the version before did not have with this content.", ge=1)
    replaced_count: int = plain("How many of these took the place of another content.", ge=0, default=0)


FlagKind = Literal["patient-conflict"]


class StudyFlagged(Fact):
    """Something about a study needs a person's eye. Nothing was changed or merged."""

    study_instance_uid: Uid = pseudonym("Study Instance UID (0020,000D).")
    kind: FlagKind = plain("patient-conflict: the same Patient ID and issuer came with another name or birth date.")
    fields: tuple[str, ...] = plain("DICOM keywords that differ.")
    other_study_instance_uid: Uid | None = pseudonym("The study that it differs from.", default=None)


class StudyExpired(Fact):
    """The copy of a study was removed: its keep time is over, and everything of it was delivered, or discarded."""

    study_instance_uid: Uid = pseudonym("Study Instance UID (0020,000D).")
    version: int = plain("Last version of the study.", ge=1)
    content_hash: Sha256 = plain("Hash of the set of instances of that version.")
    instance_count: int = plain("Instances removed.", ge=0)
    size: int = plain("Bytes removed.", ge=0)
    keep: int = plain("Keep time that is over, in seconds.", ge=0)
    kept_since: Instant = plain("When the last instance arrived, UTC.")
    destinations: tuple[str, ...] = plain("Destinations that have it; none if it was discarded.")
    network_version: int = plain("Version of the network definition whose retention applied.", ge=1)
    discarded: str | None = plain("Why rules or people wanted it nowhere, if they did.", default=None)


class StudyTagged(Fact):
    """A rule set tags on a study, which other rules and people can read. Producer: rules."""

    study_instance_uid: Uid = pseudonym("Study Instance UID (0020,000D).")
    tags: dict[str, str] = plain("The tags that were set or got another value.")
    rules: dict[str, str] = plain("The rule that set each of them.")
    network_version: int = plain("Version of the network definition that decided.", ge=1)
