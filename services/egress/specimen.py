"""An object to test a destination with, which nobody can take for a patient's."""

from dataclasses import dataclass
from datetime import datetime

from pydicom import Dataset
from pydicom.filebase import DicomBytesIO
from pydicom.filewriter import write_dataset
from pydicom.uid import generate_uid

SECONDARY_CAPTURE = "1.2.840.10008.5.1.4.1.1.7"
#: Under this Patient ID all test objects are found again.
PATIENT_ID = "KIVUKO-TEST"
_SIDE = 1024


@dataclass(frozen=True)
class Specimen:
    """A Secondary Capture image of a grey wedge.

    Attributes
    ----------
    study_instance_uid, sop_instance_uid
        New ones.
    dataset
        What is encoded when it is sent.
    """

    study_instance_uid: str
    sop_instance_uid: str
    dataset: Dataset

    def encoded(self, *, implicit: bool) -> bytes:
        """Write the dataset, little endian."""
        file = DicomBytesIO()
        file.is_implicit_VR, file.is_little_endian = implicit, True
        write_dataset(file, self.dataset)
        return file.getvalue()


def specimen(now: datetime) -> Specimen:
    """Make one of a megabyte, long enough to measure a line by."""
    made = Dataset()
    made.SpecificCharacterSet = "ISO_IR 192"
    made.SOPClassUID = SECONDARY_CAPTURE
    made.SOPInstanceUID = generate_uid(prefix=None)
    made.StudyInstanceUID = generate_uid(prefix=None)
    made.SeriesInstanceUID = generate_uid(prefix=None)
    made.PatientName = "TEST^KIVUKO"
    made.PatientID = PATIENT_ID
    made.PatientBirthDate = ""
    made.PatientSex = ""
    made.StudyDate = made.ContentDate = f"{now:%Y%m%d}"
    made.StudyTime = made.ContentTime = f"{now:%H%M%S}"
    made.AccessionNumber = ""
    made.ReferringPhysicianName = ""
    made.StudyID = "TEST"
    made.StudyDescription = "Test of a destination by Kivuko: may be deleted"
    made.SeriesDescription = "Test"
    made.Modality = "OT"
    made.ConversionType = "SYN"
    made.SeriesNumber = made.InstanceNumber = "1"
    made.SamplesPerPixel = 1
    made.PhotometricInterpretation = "MONOCHROME2"
    made.Rows = made.Columns = _SIDE
    made.BitsAllocated = made.BitsStored = 8
    made.HighBit = 7
    made.PixelRepresentation = 0
    made.add_new("PixelData", "OB", bytes(column // 4 for column in range(_SIDE)) * _SIDE)
    return Specimen(made.StudyInstanceUID, made.SOPInstanceUID, made)
