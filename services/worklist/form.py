"""An order as a person writes it down. Pure."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Annotated, Any, Final, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator
from pydantic_core import PydanticCustomError

from contracts.fact import AeTitle, Slug, Uid
from services.worklist.attributes import Attributes
from services.worklist.change import Action, Number, OrderChange, Origin, StepChange, patient_number

_PRINTED: Final = r"^[^\x00-\x1f\x7f\\]*$"
_TIMES: Final = ("%Y-%m-%dT%H:%M:%S", "%Y-%m-%dT%H:%M", "%Y-%m-%d", "%Y%m%d%H%M%S", "%Y%m%d%H%M", "%Y%m%d")
_DATES: Final = ("%Y-%m-%d", "%Y%m%d")
_DIGITS: Final = {"%Y%m%d%H%M%S": 14, "%Y%m%d%H%M": 12, "%Y%m%d": 8}
#: Parts of a person's name, and groups of it, PS3.5 section 6.2.1.
_NAME_PARTS, _NAME_GROUPS, _NAME_LONGEST = 5, 3, 64
_SEXES: Final = {"MALE": "M", "FEMALE": "F", "OTHER": "O"}
#: Issuer of order numbers that Kivuko gives to what people add without one.
OWN: Final = "KIVUKO"


def _not(kind: str, message: str) -> PydanticCustomError:
    # Only the text leaves, never the value: it may be a patient's.
    return PydanticCustomError(kind, message)


def _dated(formats: tuple[str, ...], example: str) -> Callable[[str], str]:
    def check(value: str) -> str:
        text = value.strip().replace(" ", "T", 1)
        for form in formats:
            if "-" not in form and len(text) != _DIGITS[form]:
                # 1980111 could be two days.
                continue
            try:
                found = datetime.strptime(text, form)  # noqa: DTZ007 - by the clock of the site
            except ValueError:
                continue
            return found.strftime("%Y%m%d%H%M%S" if "%H" in form else "%Y%m%d")
        raise _not("date", f"is not a date here: write such as {example}")

    return check


def _name(value: str) -> str:
    groups = value.split("=")
    if len(groups) > _NAME_GROUPS or any(len(group.split("^")) > _NAME_PARTS for group in groups):
        raise _not("person_name", "is not a name here: write FAMILY^GIVEN^MIDDLE^PREFIX^SUFFIX")
    if any(len(group) > _NAME_LONGEST for group in groups):
        raise _not("person_name", f"is longer than {_NAME_LONGEST} characters")
    if value and not value.strip("^= "):
        raise _not("person_name", "is nobody's name: write FAMILY^GIVEN^MIDDLE^PREFIX^SUFFIX")
    return value


def _sex(value: object) -> object:
    # Whole words of other languages are not guessed at: `Mujer` is no M.
    said = _upper(value)
    return _SEXES.get(said, said) if isinstance(said, str) else said


def _decimal(value: object) -> object:
    """Read a number as spreadsheets write it where the comma is the decimal sign."""
    return value.strip().replace(",", ".").replace("\u066b", ".") if isinstance(value, str) else value


def _upper(value: object) -> object:
    return value.strip().upper() if isinstance(value, str) else value


def _text(longest: int) -> Any:
    return StringConstraints(strip_whitespace=True, max_length=longest, pattern=_PRINTED)


Short = Annotated[str, _text(16)]
Long = Annotated[str, _text(64)]
Name = Annotated[str, _text(194), AfterValidator(_name)]
Date = Annotated[str, AfterValidator(_dated(_DATES, "1980-03-27"))]
Time = Annotated[str, AfterValidator(_dated(_TIMES, "2026-11-21 10:15"))]
Measure = Annotated[float, BeforeValidator(_decimal)]
Priority = Annotated[Literal["STAT", "HIGH", "ROUTINE", "MEDIUM", "LOW"], BeforeValidator(_upper)]

#: Where each field goes: to the patient, the order or the step, and under which keyword.
_PATIENT: Final = {
    "patient_name": "PatientName",
    "birth_date": "PatientBirthDate",
    "sex": "PatientSex",
    "weight": "PatientWeight",
    "size": "PatientSize",
    "allergies": "Allergies",
    "alerts": "MedicalAlerts",
    "location": "CurrentPatientLocation",
    "patient_class": "RouteOfAdmissions",
}
_ORDER: Final = {
    "study_instance_uid": "StudyInstanceUID",
    "procedure": "RequestedProcedureDescription",
    "procedure_id": "RequestedProcedureID",
    "priority": "RequestedProcedurePriority",
    "referring_physician": "ReferringPhysicianName",
    "requesting_physician": "RequestingPhysician",
    "service": "RequestingService",
    "reason": "ReasonForTheRequestedProcedure",
    "comments": "RequestedProcedureComments",
}
_STEP: Final = {
    "modality": "Modality",
    "station": "ScheduledStationAETitle",
    "step_description": "ScheduledProcedureStepDescription",
    "performing_physician": "ScheduledPerformingPhysicianName",
    "room": "ScheduledProcedureStepLocation",
}


class Said(BaseModel):
    """What a person says of an order; what is left out stays as it is, and null empties it."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    patient_name: Name | None = Field(None, description="FAMILY^GIVEN^MIDDLE^PREFIX^SUFFIX.")
    birth_date: Date | None = Field(None, description="Such as 1980-03-27.")
    sex: Annotated[Literal["M", "F", "O"], BeforeValidator(_sex)] | None = Field(None, description="M, F or O.")
    weight: Measure | None = Field(None, gt=0, lt=1000, description="Kilograms.")
    size: Measure | None = Field(None, gt=0, lt=3, description="Height in metres.")
    allergies: Long | None = None
    alerts: Long | None = Field(None, description="What whoever examines the patient must know.")
    location: Long | None = Field(None, description="Where the patient is now.")
    patient_class: Short | None = Field(None, description="As in HL7 PV1-2: E emergency, I inpatient, O outpatient.")
    study_instance_uid: Uid | None = Field(None, description="Minted, if there is none.")
    procedure: Long | None = Field(None, description="Description of what is to be done.")
    procedure_code: Short | None = None
    procedure_scheme: Short | None = Field(None, description="Coding scheme of procedure_code, such as L or SCT.")
    procedure_id: Short | None = Field(None, description="Requested Procedure ID; minted, if there is none.")
    priority: Priority | None = Field(None, description="STAT, HIGH, ROUTINE, MEDIUM or LOW.")
    referring_physician: Name | None = None
    requesting_physician: Name | None = None
    service: Long | None = Field(None, description="Who asks for it: a ward or department.")
    reason: Long | None = Field(None, description="Why it is to be done.")
    comments: Annotated[str, StringConstraints(max_length=10_240)] | None = None
    modality: Annotated[str, StringConstraints(pattern=r"^[A-Z0-9_]{1,16}$"), BeforeValidator(_upper)] | None = Field(
        None, description="Modality (0008,0060), such as CT."
    )
    station: AeTitle | None = Field(None, description="AE title of the station.")
    start: Time | None = Field(None, description="By the clock of the site, such as 2026-11-21 10:15.")
    step_description: Long | None = None
    performing_physician: Name | None = None
    room: Short | None = None

    @model_validator(mode="after")
    def _scheme_of_a_code(self) -> Self:
        if self.procedure_scheme is not None and self.procedure_code is None:
            raise _not("alone", "procedure_scheme says what a procedure_code is of: give both")
        return self


class Added(Said):
    """A new order."""

    site: Slug = Field(description="Key of the site at which it is to be done.")
    patient_id: Annotated[str, _text(64), StringConstraints(min_length=1)]
    issuer: Long | None = Field(None, description="Issuer of the patient identifier.")
    patient_name: Name = Field(min_length=1, description="FAMILY^GIVEN^MIDDLE^PREFIX^SUFFIX.")
    modality: Annotated[str, StringConstraints(pattern=r"^[A-Z0-9_]{1,16}$"), BeforeValidator(_upper)]
    start: Time
    accession: Annotated[str, _text(16)] | None = Field(None, description="Accession number; minted, if there is none.")
    order: Annotated[str, _text(64)] | None = Field(
        None, description="Order number of your own: the same number again changes the same order."
    )


class Edited(Said):
    """What is different now in an order."""

    step: Annotated[str, _text(64)] | None = Field(None, description="Which step, where the order has several.")
    accession: Annotated[str, _text(16)] | None = Field(None, min_length=1)
    patient_id: Annotated[str, _text(64)] | None = Field(
        None, min_length=1, description="Another patient than before: what was said of that one goes."
    )
    issuer: Long | None = None

    @model_validator(mode="after")
    def _issuer_of_an_identifier(self) -> Self:
        if self.issuer is not None and self.patient_id is None:
            raise _not("alone", "issuer says what a patient_id is of: give both")
        return self


def content(form: Said) -> bytes:
    """Give what a form says, the same for the same; fields that later releases add to it do not change that."""
    return form.model_dump_json(exclude_none=True).encode()


def patient_of(form: Added) -> Number:
    """Give the identifier of its patient."""
    return patient_number(form.patient_id, form.issuer or "", form.site)


def own_number(form: Added) -> Number:
    """Give the number by which an order is the same when it is added again: its own, or one made of what it says."""
    # The same line of a file again is the same order: people import a list once more after mending a line of it.
    return Number(form.order) if form.order else Number(hashlib.sha256(content(form)).hexdigest()[:20].upper(), OWN)


def added(form: Added, origin: Origin, tenant: str, stations: Sequence[str] = ()) -> OrderChange:
    """Make the change that a new order is.

    Parameters
    ----------
    stations
        AE titles that it is for, where the form names none.
    """
    step = {**_attributes(form, _STEP), **_start(form)}
    if not step.get("ScheduledStationAETitle") and stations:
        step["ScheduledStationAETitle"] = tuple(stations)
    return OrderChange(
        origin,
        tenant,
        form.site,
        "schedule",
        patient_of(form),
        placer=own_number(form),
        accession=Number(form.accession) if form.accession else None,
        about_patient=_attributes(form, _PATIENT),
        about_order={**_attributes(form, _ORDER), **_code(form)},
        steps=(StepChange("", step),),
    )


def edited(
    form: Edited, origin: Origin, tenant: str, site: str, patient: Number, numbers: Mapping[str, Number]
) -> OrderChange:
    """Make the change that an edit is.

    Parameters
    ----------
    site, patient, numbers
        Those of the order; numbers by kind: placer, filler, accession.
    """
    if form.patient_id is not None:
        issuer = form.issuer if "issuer" in form.model_fields_set else patient.issuer
        patient = patient_number(form.patient_id, issuer or "", site)
    about_order: dict[str, Any] = {**_attributes(form, _ORDER), **_code(form)}
    named: dict[str, Any] = dict(numbers)
    if form.accession is not None:
        about_order["AccessionNumber"] = (form.accession,)
        # Messages may name the order by it from now on.
        named.setdefault("accession", Number(form.accession))
    step = {**_attributes(form, _STEP), **_start(form)}
    return OrderChange(
        origin,
        tenant,
        site,
        "update",
        patient,
        **named,
        about_patient=_attributes(form, _PATIENT),
        about_order=about_order,
        steps=(StepChange(form.step or "", step),) if step else (),
    )


def ordered(
    action: Action,
    step: str | None,
    origin: Origin,
    tenant: str,
    site: str,
    patient: Number,
    numbers: Mapping[str, Number],
    reason: str,
) -> OrderChange:
    """Make the change that an act on an order, or on one step of it, is."""
    steps = (StepChange(step, {}),) if step else ()
    return OrderChange(origin, tenant, site, action, patient, steps=steps, reason=reason, **dict(numbers))  # type: ignore[arg-type]  # by kind


def _attributes(form: Said, keywords: Mapping[str, str]) -> Attributes:
    return {
        keyword: () if getattr(form, name) in (None, "") else (_written(getattr(form, name)),)
        for name, keyword in keywords.items()
        if name in form.model_fields_set
    }


def _written(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _code(form: Said) -> Attributes:
    if "procedure_code" not in form.model_fields_set:
        return {}
    if not form.procedure_code:
        return {"RequestedProcedureCodeSequence": ()}
    code = {
        "CodeValue": (form.procedure_code,),
        "CodingSchemeDesignator": (form.procedure_scheme or "L",),
        "CodeMeaning": (form.procedure or form.procedure_code,),
    }
    return {"RequestedProcedureCodeSequence": (code,)}


def _start(form: Said) -> Attributes:
    if "start" not in form.model_fields_set:
        return {}
    date, time = (form.start or "")[:8], (form.start or "")[8:]
    return {
        "ScheduledProcedureStepStartDate": (date,) if date else (),
        "ScheduledProcedureStepStartTime": (time,) if time else (),
    }
