"""Events about performed procedure steps (MPPS, PS3.4 annex F). Producer: worklist."""

from contracts.fact import Fact, Instant, Source, Uid, plain, pseudonym


class _Step(Fact):
    mpps_instance_uid: Uid = pseudonym("SOP Instance UID of the performed procedure step.")
    study_instance_uid: Uid = pseudonym("Study Instance UID (0020,000D).")
    accession_number: str | None = pseudonym("Accession Number (0008,0050), if the step names one.", default=None)
    station_aet: str = plain("Performed Station AE Title (0040,0241).")
    modality: str = plain("Modality (0008,0060).")
    source: Source | None = plain("The modality that reports it; None from a release that did not say.", default=None)


class ProcedureStarted(_Step):
    """A modality reported IN PROGRESS."""

    started_at: Instant = plain("Start of the performed step.")


class PerformedSeries(Fact):
    """A series that a step says it made."""

    series_instance_uid: Uid = pseudonym("Series Instance UID (0020,000E).")
    instance_count: int = plain("Instances of it that the step names.", ge=0)


class _EndedStep(_Step):
    started_at: Instant | None = plain("Start of the performed step.", default=None)
    ended_at: Instant = plain("End of the performed step.")
    instance_count: int | None = plain(
        "Instances that the step says it made; None if it names several studies, as it does not say of which they are.",
        default=None,
    )
    series: tuple[PerformedSeries, ...] | None = plain("The same by series.", default=None)


class ProcedureCompleted(_EndedStep):
    """A modality reported COMPLETED."""


class ProcedureDiscontinued(_EndedStep):
    """A modality reported DISCONTINUED."""

    wrong_entry: bool = plain(
        "Whether the wrong worklist entry had been selected: the scheduled step is to be done still.", default=False
    )
