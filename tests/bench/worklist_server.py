"""The worklist port with a hundred thousand items, in a process of its own; told by lines what there is."""

import random
import sys
from pathlib import Path
from typing import Any, Final

from tests.support.worklist import STEPS, Worklist

#: Items of one station on one day, as a busy scanner has them.
A_DAY: Final = 29
DAYS: Final = 34
MODALITIES: Final = ("CT", "MR", "US", "DX")
_FAMILY: Final = ("DOE", "SMITH", "OBIANG", "NGUEMA", "Müller", "MBA", "ESONO", "Núñez")
_GIVEN: Final = ("JANE", "JOHN", "ANNA", "JOSÉ", "MARIA", "TEODORO", "Zoë")
_AT_ONCE: Final = 5000


def station(number: int) -> str:
    """Give the AE title of a station."""
    return f"{MODALITIES[number % len(MODALITIES)]}{number}"


def items(count: int) -> list[dict[str, Any]]:
    """Make items: stations in turn, each with its day full."""
    chance = random.Random(7)
    return [_item(number, chance) for number in range(count)]


def _item(number: int, chance: random.Random) -> dict[str, Any]:
    place = number // A_DAY
    day, of = place % DAYS, place // DAYS
    date = f"2026{11 if day < 9 else 12}{22 + day if day < 9 else day - 8:02}"
    return {
        "AccessionNumber": (f"A{number}",),
        "ReferringPhysicianName": ("HOUSE^GREGORY",),
        "PatientName": (f"{chance.choice(_FAMILY)}^{chance.choice(_GIVEN)}",),
        "PatientID": (f"P{number}",),
        "IssuerOfPatientID": ("BATA",),
        "PatientBirthDate": (f"19{number % 90 + 10}0{number % 9 + 1}11",),
        "PatientSex": ("FM"[number % 2],),
        "PatientWeight": ("61",),
        "MedicalAlerts": (),
        "Allergies": ("NONE KNOWN",),
        "PregnancyStatus": ("4",),
        "StudyInstanceUID": (f"1.2.826.0.1.3680043.10.99.{number}",),
        "RequestingPhysician": ("CUDDY^LISA",),
        "RequestedProcedureDescription": ("CHEST",),
        "RequestedProcedureCodeSequence": (
            {"CodeValue": ("71020",), "CodingSchemeDesignator": ("C4",), "CodeMeaning": ("Chest, two views",)},
        ),
        "AdmissionID": (f"V{number}",),
        "CurrentPatientLocation": ("WARD 3",),
        "RequestedProcedureID": (f"R{number}",),
        "RequestedProcedurePriority": ("ROUTINE",),
        "PlacerOrderNumberImagingServiceRequest": (f"O{number}",),
        "FillerOrderNumberImagingServiceRequest": (f"F{number}",),
        STEPS: (
            {
                "ScheduledStationAETitle": (station(of),),
                "ScheduledProcedureStepStartDate": (date,),
                "ScheduledProcedureStepStartTime": (f"{7 + number % A_DAY // 3:02}{number % 3 * 20:02}00",),
                "Modality": (MODALITIES[of % len(MODALITIES)],),
                "ScheduledPerformingPhysicianName": (),
                "ScheduledProcedureStepDescription": ("CHEST PA AND LATERAL",),
                "ScheduledProtocolCodeSequence": (
                    {"CodeValue": ("P1",), "CodingSchemeDesignator": ("99B",), "CodeMeaning": ("Chest",)},
                ),
                "ScheduledProcedureStepID": (f"S{number}",),
                "ScheduledStationName": ("ROOM 1",),
            },
        ),
    }


def main(folder: str, count: int) -> None:
    """Serve until the input ends."""
    with Worklist(Path(folder), {"BENCH": {}}) as running:
        made = items(count)
        for start in range(0, count, _AT_ONCE):
            running.add(*({"attributes": each} for each in made[start : start + _AT_ONCE]))
            print(f"added {start + _AT_ONCE}", flush=True)
        del made
        running.seen(count)
        print(f"port {running.port_number}", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]))
