"""Table E.1-1 of PS3.15: what de-identification does with each attribute, by profile and option.

The actions of the basic profile come from `dicom-anonymizer`, which follows the editions of the Standard; those of the
options (section E.3) stand here, by keyword.
"""

from functools import cache
from typing import Final, Literal

from dicomanonymizer.dicom_anonymization_databases import dicomfields_2026c as edition
from pydicom.datadict import dictionary_VR, keyword_dict

#: X: removed. Z: without a value. D: a dummy. U: the UID that stands for it. K: kept. C: cleaned.
Action = Literal["X", "Z", "D", "U", "K", "C"]
#: Options by the word of the network definition: code value and meaning of CID 7050.
CODES: Final = {
    "clean-descriptors": ("113105", "Clean Descriptors Option"),
    "retain-dates": ("113106", "Retain Longitudinal Temporal Information Full Dates Option"),
    "shift-dates": ("113107", "Retain Longitudinal Temporal Information Modified Dates Option"),
    "retain-patient-characteristics": ("113108", "Retain Patient Characteristics Option"),
    "retain-device": ("113109", "Retain Device Identity Option"),
    "retain-uids": ("113110", "Retain UIDs Option"),
    "retain-institution": ("113112", "Retain Institution Identity Option"),
}
BASIC: Final = ("113100", "Basic Application Confidentiality Profile")
CLEAN_PIXELS: Final = ("113101", "Clean Pixel Data Option")
#: The stricter of those that the table leaves to the type of the attribute in its IOD, so that every IOD stays valid:
#: X/Z becomes Z, and what may have to have a value becomes a dummy.
_BASIC: Final[tuple[tuple[str, Action], ...]] = (
    ("X_TAGS", "X"),
    ("Z_TAGS", "Z"),
    ("X_Z_TAGS", "Z"),
    ("D_TAGS", "D"),
    ("Z_D_TAGS", "D"),
    ("X_D_TAGS", "D"),
    ("X_Z_D_TAGS", "D"),
    ("U_TAGS", "U"),
    ("X_Z_U_STAR_TAGS", "U"),
)
_DATE_VRS: Final = frozenset({"DA", "DT", "TM"})
#: Dates and times that no option retains.
_NO_OPTION: Final = frozenset({"PatientBirthDate", "PatientBirthTime", "GPSTimeStamp"})


def _listed(keywords: str) -> frozenset[str]:
    return frozenset(keywords.split())


_DEVICE: Final = _listed(
    """
    BeamHoldTransitionDateTime CalibrationDate CalibrationDateTime CalibrationTime CassetteID DateOfInstallation
    DateOfLastCalibration DateOfLastDetectorCalibration DateOfManufacture DateTimeOfLastCalibration DetectorID
    DeviceDescription DeviceLabel DeviceSerialNumber DeviceUID GantryID GeneratorID LensMake LensModel
    LensSerialNumber LensSpecification ManufacturerDeviceClassUID ManufacturerDeviceIdentifier ModifyingDeviceID
    ModifyingSystem PerformedStationGeographicLocationCodeSequence PerformedStationName
    PerformedStationNameCodeSequence PlateID ScheduledProcedureStepLocation
    ScheduledStationGeographicLocationCodeSequence ScheduledStationName ScheduledStationNameCodeSequence
    ScheduledStudyLocation SourceManufacturer SourceSerialNumber StationName TimeOfLastCalibration
    TimeOfLastDetectorCalibration TransducerIdentificationSequence TreatmentMachineName UDISequence
    UniqueDeviceIdentifier XRayDetectorID XRayDetectorLabel XRaySourceID
    """
)
_INSTITUTION: Final = _listed(
    """
    ClinicalTrialCoordinatingCenterName ClinicalTrialProtocolEthicsCommitteeName ClinicalTrialSiteID
    ClinicalTrialSiteName InstitutionAddress InstitutionCodeSequence InstitutionName InstitutionalDepartmentName
    InstitutionalDepartmentTypeCodeSequence SourceOfPreviousValues
    """
)
_PATIENT: Final = _listed(
    """
    EthnicGroup EthnicGroupCodeSequence PatientAge PatientSex PatientSexNeutered PatientSize PatientWeight
    PregnancyStatus SelectorASValue SmokingStatus
    """
)
_DESCRIPTORS: Final = _listed(
    """
    AcquisitionComments AcquisitionDeviceProcessingDescription AcquisitionFieldOfViewLabel
    AcquisitionProtocolDescription AdditionalPatientHistory AdmittingDiagnosesCodeSequence
    AdmittingDiagnosesDescription Allergies AnnotationGroupDescription AnnotationGroupLabel BeamDescription
    BolusDescription ClinicalTrialSeriesDescription ClinicalTrialTimePointDescription CommentsOnRadiationDose
    CommentsOnThePerformedProcedureStep CompensatorDescription ConceptualVolumeCombinationDescription
    ConceptualVolumeDescription ContainerDescription ContrastBolusAgent ContributionDescription
    DecompositionDescription DerivationDescription DeviceSettingDescription DischargeDiagnosisDescription
    DisplacementReferenceLabel DoseReferenceDescription EntityDescription EntityLabel EntityLongLabel EntityName
    EquipmentFrameOfReferenceDescription FilterLookupTableDescription FixationDeviceDescription
    FractionGroupDescription FractionationNotes FrameComments IdentifyingComments ImageComments
    ImagingServiceRequestComments Impressions InterlockDescription InterlockOriginDescription
    InterpretationDiagnosisDescription InterpretationText LabelText LongDeviceDescription MakerNote
    MedicalAlerts MultienergyAcquisitionDescription Occupation PatientComments PatientSetupPhotoDescription
    PatientState PatientTreatmentPreparationMethodDescription
    PatientTreatmentPreparationProcedureParameterDescription PerformedProcedureStepDescription
    PositionAcquisitionTemplateDescription PositionAcquisitionTemplateName PrescriptionDescription
    PrescriptionNotes PrescriptionNotesSequence PriorTreatmentDoseDescription ProtocolName PyramidDescription
    PyramidLabel ROIDescription ROIGenerationDescription ROIName ROIObservationDescription ROIObservationLabel
    RTPhysicianIntentNarrative RTPlanDescription RTPlanLabel RTPlanName RTPrescriptionLabel RTToleranceSetLabel
    RTTreatmentApproachLabel RadiationDoseIdentificationLabel RadiationDoseInVivoMeasurementLabel
    RadiationGenerationModeDescription RadiationGenerationModeLabel ReasonForOmissionDescription
    ReasonForRequestedProcedureCodeSequence ReasonForStudy ReasonForSuperseding
    ReasonForTheAttributeModification ReasonForTheImagingServiceRequest ReasonForTheRequestedProcedure
    ReasonForVisit ReasonForVisitCodeSequence RequestAttributesSequence RequestedContrastAgent
    RequestedProcedureComments RequestedProcedureDescription RequestedSeriesDescription
    RespiratoryMotionCompensationTechniqueDescription ResultsComments ScheduledProcedureStepDescription
    SelectorLOValue SelectorLTValue SelectorSHValue SelectorSTValue SelectorUTValue SeriesDescription
    ServiceEpisodeDescription SetupTechniqueDescription ShieldingDeviceDescription SpecimenDetailedDescription
    SpecimenShortDescription StructureSetDescription StructureSetLabel StructureSetName StudyComments
    StudyDescription TreatmentPositionGroupLabel TreatmentSite TreatmentSites TreatmentTechniqueNotes
    TreatmentToleranceViolationDescription UserContentLabel UserContentLongLabel VisitComments
    WaveformFilterDescription
    """
)
#: What the table does not list, as it belongs to no image: what it holds can't be looked into. Earlier values that
#: whoever has the key could read (PS3.15 section E.1.1), and drawings.
_OPAQUE: Final = _listed("EncryptedAttributesSequence HPGLDocument")
_RETAINED: Final = {
    "retain-device": _DEVICE,
    "retain-institution": _INSTITUTION,
    "retain-patient-characteristics": _PATIENT,
}


@cache
def basic() -> dict[int, Action]:
    """Give the action of the basic profile by tag, and of what nobody can look into."""
    opaque: dict[int, Action] = dict.fromkeys(_tags(_OPAQUE), "X")
    return opaque | {
        # The dummy of a UID is the UID that stands for it.
        (number := tag[0] << 16 | tag[1]): "U" if action == "D" and _vr(number) == "UI" else action
        for name, action in _BASIC
        for tag in getattr(edition, name)
        if len(tag) == 2  # noqa: PLR2004 (the others are repeating groups, which go as a whole)
    }


@cache
def actions(options: frozenset[str]) -> dict[int, Action]:
    """Give the action of each attribute of the table under options."""
    found = dict(basic())
    if "clean-descriptors" in options:
        found |= dict.fromkeys(_tags(_DESCRIPTORS) & found.keys(), "C")
    if options & {"shift-dates", "retain-dates"}:
        # C of a date is its shift; not shifted, it stays if it is a date.
        found |= {tag: "C" for tag in found if _vr(tag) in _DATE_VRS and tag not in _tags(_NO_OPTION)}
    for option in options & _RETAINED.keys():
        found |= dict.fromkeys(_tags(_RETAINED[option]) & found.keys(), "K")
    if "retain-uids" in options:
        found |= {tag: "K" for tag, known in basic().items() if known == "U"}
    return found


def _tags(keywords: frozenset[str]) -> set[int]:
    return {keyword_dict[keyword] for keyword in keywords if keyword in keyword_dict}


def _vr(tag: int) -> str:
    try:
        return str(dictionary_VR(tag))
    except KeyError:
        return ""
