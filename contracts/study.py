"""Events about studies as a whole. Producer: ingest."""

from contracts.fact import Attributes, Fact, Instant, ObjectRef, Sha256, Source, Uid, personal, plain, pseudonym


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


class StudyCompleted(_StudyVersion):
    """A study is complete as far as the evidence goes: its first version."""


class StudyAmended(_StudyVersion):
    """Instances arrived after the study was declared complete: a further version."""

    added_count: int = plain("Number of instances that the version before did not have.", ge=1)
