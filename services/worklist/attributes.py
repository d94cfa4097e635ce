"""What is known of an order, a step or a patient: attributes by DICOM keyword (PS3.6 section 6)."""

from collections.abc import Mapping
from typing import TypeAlias

#: `{"PatientName": ("Doe^Jane",), "RequestedProcedureCodeSequence": ({"CodeValue": ("1",)},)}`. Every value is a tuple:
#: texts as people write them, or the items of a sequence. An empty one is known to be empty; a missing key is unknown.
Attributes: TypeAlias = Mapping[str, tuple["str | Attributes", ...]]
