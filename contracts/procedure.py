"""Events about performed procedure steps (MPPS, PS3.4 annex F). Producer: worklist."""

from contracts.fact import Fact, Instant, Uid, plain, pseudonym


class _Step(Fact):
    mpps_instance_uid: Uid = pseudonym("SOP Instance UID of the performed procedure step.")
    study_instance_uid: Uid = pseudonym("Study Instance UID (0020,000D).")
    accession_number: str | None = pseudonym("Accession Number (0008,0050), if the step names one.", default=None)
    station_aet: str = plain("Performed Station AE Title (0040,0241).")
    modality: str = plain("Modality (0008,0060).")


class ProcedureStarted(_Step):
    """A modality reported IN PROGRESS."""

    started_at: Instant = plain("Start of the performed step.")


class _EndedStep(_Step):
    ended_at: Instant = plain("End of the performed step.")
    instance_count: int | None = plain("Instances that the step says it made, if it says.", default=None)


class ProcedureCompleted(_EndedStep):
    """A modality reported COMPLETED."""


class ProcedureDiscontinued(_EndedStep):
    """A modality reported DISCONTINUED."""
