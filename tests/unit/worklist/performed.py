"""What a modality says of a step, for tests."""

from services.worklist.attributes import Attributes

STUDY = "1.2.826.0.1.3680043.8.498.1"
MPPS = "1.2.826.0.1.3680043.8.498.77.1"


def scheduled(
    study: str = STUDY, step_id: str = "", accession: str = "", **more: tuple[str | Attributes, ...]
) -> Attributes:
    """Give an item of the Scheduled Step Attributes Sequence."""
    said: dict[str, tuple[str | Attributes, ...]] = {
        "StudyInstanceUID": (study,),
        "ReferencedStudySequence": (),
        "AccessionNumber": (accession,) if accession else (),
        "RequestedProcedureID": (),
        "RequestedProcedureDescription": (),
        "ScheduledProcedureStepID": (step_id,) if step_id else (),
        "ScheduledProcedureStepDescription": (),
        "ScheduledProtocolCodeSequence": (),
    }
    return said | more


def created(*steps: Attributes, patient: str = "100", **more: tuple[str | Attributes, ...]) -> Attributes:
    """Give the attribute list of an N-CREATE that has all that PS3.4 table F.7.2-1 wants."""
    said: dict[str, tuple[str | Attributes, ...]] = {
        "ScheduledStepAttributesSequence": steps or (scheduled(),),
        "PatientName": ("Nguema^Jané",),
        "PatientID": (patient,) if patient else (),
        "PatientBirthDate": (),
        "PatientSex": (),
        "ReferencedPatientSequence": (),
        "PerformedProcedureStepID": ("P1",),
        "PerformedStationAETitle": ("CT1",),
        "PerformedStationName": (),
        "PerformedLocation": (),
        "PerformedProcedureStepStartDate": ("20261120",),
        "PerformedProcedureStepStartTime": ("130500",),
        "PerformedProcedureStepStatus": ("IN PROGRESS",),
        "PerformedProcedureStepDescription": (),
        "PerformedProcedureTypeDescription": (),
        "ProcedureCodeSequence": (),
        "PerformedProcedureStepEndDate": (),
        "PerformedProcedureStepEndTime": (),
        "Modality": ("CT",),
        "StudyID": (),
        "PerformedProtocolCodeSequence": (),
        "PerformedSeriesSequence": (),
        "PerformedProcedureStepDiscontinuationReasonCodeSequence": (),
    }
    return said | more


def made(series: str, *instances: str, others: tuple[str, ...] = ()) -> Attributes:
    """Give an item of the Performed Series Sequence."""
    return {
        "PerformingPhysicianName": (),
        "ProtocolName": ("HEAD",),
        "OperatorsName": (),
        "SeriesInstanceUID": (series,),
        "SeriesDescription": (),
        "RetrieveAETitle": (),
        "ReferencedImageSequence": tuple(_reference("1.2.840.10008.5.1.4.1.1.2", uid) for uid in instances),
        "ReferencedNonImageCompositeSOPInstanceSequence": tuple(
            _reference("1.2.840.10008.5.1.4.1.1.88.67", uid) for uid in others
        ),
    }


def _reference(sop_class: str, uid: str) -> Attributes:
    return {"ReferencedSOPClassUID": (sop_class,), "ReferencedSOPInstanceUID": (uid,)}


def ended(status: str = "COMPLETED", *series: Attributes, **more: tuple[str | Attributes, ...]) -> Attributes:
    """Give the modification list of the N-SET that ends a step."""
    said: dict[str, tuple[str | Attributes, ...]] = {
        "PerformedProcedureStepStatus": (status,),
        "PerformedProcedureStepEndDate": ("20261120",),
        "PerformedProcedureStepEndTime": ("131500",),
        "PerformedSeriesSequence": series or (made("1.2.3.1", "1.2.3.1.1", "1.2.3.1.2"),),
    }
    return said | more


def reason(code: str, scheme: str = "DCM") -> Attributes:
    """Give a reason of a discontinuation."""
    return {"CodeValue": (code,), "CodingSchemeDesignator": (scheme,), "CodeMeaning": ("why",)}
