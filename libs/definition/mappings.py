"""How HL7 messages become worklist items: the mapping that is built in, and those of a definition that extend it.

The table follows the IHE Radiology scheduled workflow (transactions RAD-2, RAD-4 and RAD-48) and how archives take it:
docs/worklist-hl7.md shows it.
"""

from collections.abc import Mapping
from typing import Any, Final

from contracts.definition import Hl7Mapping, Hl7Value

#: Key of the mapping that is built in.
DEFAULT: Final = "default"
_START: Final = ["TQ1-7", "ORC-7.4", "OBR-27.4", "AIS-4", "SCH-11.4", "OBR-36"]
_WEIGHT: Final = ["29463-7", "3141-9", "3142-7", "8335-2", "BODY WEIGHT", "WEIGHT"]
_HEIGHT: Final = ["8302-2", "3137-7", "3138-5", "8301-4", "BODY HEIGHT", "HEIGHT"]


def _issuer(*fields: str, first: int = 2) -> dict[str, Any]:
    """Give the items that name who issued a number: three components of each of these fields."""
    parts = ("LocalNamespaceEntityID", "UniversalEntityID", "UniversalEntityIDType")
    return {
        "set": {
            keyword: {"from": [f"{field}.{component}" for field in fields]}
            for component, keyword in enumerate(parts, start=first)
        }
    }


_QUALIFIERS: Final = {
    "set": {
        "UniversalEntityID": {"from": "PID-3.4.2"},
        "UniversalEntityIDType": {"from": "PID-3.4.3"},
        "IdentifierTypeCode": {"from": "PID-3.5"},
    }
}
_PATIENT: Final[dict[str, Any]] = {
    "PatientID": {"from": ["PID-3.1", "PID-2.1"]},
    "IssuerOfPatientID": {"from": ["PID-3.4.1", "PID-3.4.2", "node.issuer"]},
    "TypeOfPatientID": {"value": "TEXT"},
    "IssuerOfPatientIDQualifiersSequence": _QUALIFIERS,
    "OtherPatientIDsSequence": {
        "each": "PID-3",
        "set": {
            "PatientID": {"from": "PID-3.1"},
            "IssuerOfPatientID": {"from": ["PID-3.4.1", "PID-3.4.2", "node.issuer"]},
            "TypeOfPatientID": {"value": "TEXT"},
            "IssuerOfPatientIDQualifiersSequence": _QUALIFIERS,
        },
    },
    "PatientName": {"from": "PID-5", "as": "name"},
    "PatientMotherBirthName": {"from": "PID-6", "as": "name"},
    "PatientBirthDate": {"from": "PID-7"},
    "PatientSex": {"from": "PID-8", "table": {"F": "F", "M": "M", "O": "O", "A": "O", "N": "O", "U": ""}},
    "PatientAddress": {"from": "PID-11", "as": "address"},
    "PatientTelephoneNumbers": {"from": "PID-13"},
    "PatientTelecomInformation": {"from": ["PID-14", "PID-13.4"]},
    "PregnancyStatus": {"from": "PV1-15", "table": {"B6": "3"}, "unlisted": "drop"},
    "AdmissionID": {"from": ["PV1-19", "PID-18"]},
    "CurrentPatientLocation": {"from": "PV1-3", "as": "address"},
    # No attribute of DICOM has the patient class; archives put it here.
    "RouteOfAdmissions": {"from": "PV1-2"},
    "PatientState": {"from": ["OBR-12.2", "OBR-12.1"]},
    "MedicalAlerts": {"from": "OBR-13"},
    "PatientWeight": {"from": "OBX-5", "where": {"OBX-3": _WEIGHT}, "unit": {"from": "OBX-6", "to": "kg"}},
    "PatientSize": {"from": "OBX-5", "where": {"OBX-3": _HEIGHT}, "unit": {"from": "OBX-6", "to": "m"}},
}
_ORDER: Final[dict[str, Any]] = {
    "PlacerOrderNumberImagingServiceRequest": {
        "from": ["ORC-2", "OBR-2", "SCH-26"],
        # Sites without orders have appointments alone: then their numbers are the order's.
        "otherwise": {"from": "SCH-1", "unless": ["ORC", "OBR", "SCH-27"]},
    },
    "OrderPlacerIdentifierSequence": {
        **_issuer("ORC-2", "OBR-2", "SCH-26"),
        "otherwise": {**_issuer("SCH-1"), "unless": ["ORC", "OBR", "SCH-26", "SCH-27"]},
    },
    "FillerOrderNumberImagingServiceRequest": {
        "from": ["ORC-3", "OBR-3", "SCH-27"],
        "otherwise": {"from": "SCH-2", "unless": ["ORC", "OBR", "SCH-26"]},
    },
    "OrderFillerIdentifierSequence": {
        **_issuer("ORC-3", "OBR-3", "SCH-27"),
        "otherwise": {**_issuer("SCH-2"), "unless": ["ORC", "OBR", "SCH-26", "SCH-27"]},
    },
    "AccessionNumber": {"from": ["IPC-1", "OBR-18"]},
    "IssuerOfAccessionNumberSequence": _issuer("IPC-1"),
    "StudyInstanceUID": {"from": ["IPC-3", "ZDS-1"]},
    "RequestedProcedureID": {"from": ["IPC-2", "OBR-19"]},
    "RequestedProcedureDescription": {"from": ["OBR-44.2", "OBR-4.2", "AIS-3.2"]},
    "RequestedProcedureCodeSequence": {"from": ["OBR-44.1-3", "OBR-4.1-3", "AIS-3.1-3"], "as": "code"},
    "RequestedProcedurePriority": {
        "from": ["TQ1-9", "ORC-7.6", "OBR-27.6", "OBR-5"],
        "table": {"S": "STAT", "A": "HIGH", "P": "HIGH", "C": "HIGH", "R": "ROUTINE", "T": "MEDIUM"},
    },
    "RequestedProcedureComments": {"from": "NTE-3"},
    "ReasonForTheRequestedProcedure": {"from": ["OBR-31.2", "OBR-31.1"]},
    "ReasonForRequestedProcedureCodeSequence": {"from": "OBR-31", "as": "code"},
    "RequestingPhysician": {"from": ["OBR-16", "ORC-12"], "as": "staff"},
    "ReferringPhysicianName": {"from": "PV1-8", "as": "staff"},
    "PatientTransportArrangements": {"from": "OBR-30"},
    "InstitutionName": {"from": ["ORC-17.2", "ORC-17.1", "MSH-4"]},
    "InstitutionCodeSequence": {"from": "ORC-17", "as": "code"},
    "TimezoneOffsetFromUTC": {"from": _START},
}
_STEP: Final[dict[str, Any]] = {
    "ScheduledProcedureStepID": {"from": ["IPC-4", "OBR-20"]},
    "ScheduledProcedureStepStartDate": {"from": _START},
    "ScheduledProcedureStepStartTime": {"from": _START},
    "Modality": {
        "from": ["IPC-5", "OBR-24"],
        # What table 0074 has for a modality of DICOM.
        "table": {"RUS": "US", "CUS": "US", "OUS": "US", "VUS": "US", "NMR": "MR", "NMS": "NM"},
        "unlisted": "keep",
    },
    "ScheduledStationAETitle": {"from": ["IPC-9", "ORC-18"], "station": True},
    "ScheduledStationName": {"from": "IPC-7"},
    "ScheduledProcedureStepLocation": {"from": ["IPC-8.2", "IPC-8.1", "AIL-3"]},
    "ScheduledProcedureStepDescription": {"from": ["IPC-6.2", "OBR-4.5", "OBR-4.2", "AIS-3.2"]},
    "ScheduledProtocolCodeSequence": {"from": ["IPC-6", "OBR-4.4-6", "OBR-4.1-3", "AIS-3.1-3"], "as": "code"},
    "ScheduledPerformingPhysicianName": {"from": ["OBR-34.1", "AIP-3"], "as": "staff"},
}
_CONTROL: Final = {
    **dict.fromkeys(("NW", "NW_SC", "NW_IP", "XO_SC", "SN", "RO", "S12", "S13"), "schedule"),
    **dict.fromkeys(("XO", "SC_SC", "XX", "S14"), "update"),
    **dict.fromkeys(("SC_IP", "XO_IP"), "start"),
    **dict.fromkeys(("XO_CM", "SC_CM", "SC_A", "XO_A"), "complete"),
    **dict.fromkeys(("DC", "DC_CA", "OD", "SC_DC", "XO_DC"), "discontinue"),
    **dict.fromkeys(("CA", "CA_CA", "OC", "SC_CA", "XO_CA", "S15"), "cancel"),
}

#: The mapping that is built in.
BUILT_IN: Final = Hl7Mapping.model_validate({"set": {**_PATIENT, **_ORDER, **_STEP}, "control": _CONTROL})


def resolved(mappings: Mapping[str, Hl7Mapping], key: str) -> Hl7Mapping:
    """Give a mapping with all that it extends. Raises KeyError for one that is not there."""
    if key == DEFAULT:
        return BUILT_IN
    own = mappings[key]
    under = Hl7Mapping() if own.extends is None else resolved(mappings, own.extends)
    taken: dict[str, Hl7Value | None] = {
        keyword: value for keyword, value in {**under.set, **own.set}.items() if value is not None
    }
    return Hl7Mapping(set=taken, control={**under.control, **own.control})
