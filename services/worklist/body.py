"""Changes as JSON, for the journal. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any, get_args

from services.worklist.attributes import Attributes
from services.worklist.change import (
    Action,
    Change,
    Number,
    OrderChange,
    Origin,
    PatientChange,
    PatientMerge,
    StepChange,
    patient_number,
)
from services.worklist.patient import Said


def written(change: Change) -> dict[str, Any]:
    """Give a change without its origin as JSON has it."""
    match change:
        case OrderChange():
            return {
                "site": change.site,
                "action": change.action,
                "patient": _number(change.patient),
                "placer": change.placer and _number(change.placer),
                "filler": change.filler and _number(change.filler),
                "accession": change.accession and _number(change.accession),
                "about_patient": change.about_patient,
                "about_order": change.about_order,
                "steps": [{"step_id": step.step_id, "attributes": step.attributes} for step in change.steps],
                **({"reason": change.reason} if change.reason else {}),
            }
        case PatientChange():
            return {"patient": _number(change.patient), "about_patient": change.about_patient}
        case PatientMerge():
            return {"kept": _number(change.kept), "merged": _number(change.merged)}


def read_order(body: Mapping[str, Any], tenant: str, origin: Origin) -> OrderChange:
    """Read a change of an order."""
    if body["action"] not in get_args(Action):
        raise ValueError("the journal holds an action that this release does not know")
    return OrderChange(
        origin=origin,
        tenant=tenant,
        site=body["site"],
        action=body["action"],
        patient=_patient(body["patient"], body["site"]),
        placer=Number(*body["placer"]) if body["placer"] else None,
        filler=Number(*body["filler"]) if body["filler"] else None,
        accession=Number(*body["accession"]) if body["accession"] else None,
        about_patient=read_attributes(body["about_patient"]),
        about_order=read_attributes(body["about_order"]),
        steps=tuple(StepChange(step["step_id"], read_attributes(step["attributes"])) for step in body["steps"]),
        reason=body.get("reason", ""),
    )


def read_attributes(body: Mapping[str, Any]) -> Attributes:
    """Read attributes."""
    return {
        keyword: tuple(value if isinstance(value, str) else read_attributes(value) for value in values)
        for keyword, values in body.items()
    }


def read_said(body: Mapping[str, Any]) -> Said:
    """Read attributes with the place of what said each."""
    return {
        keyword: ((at[0], at[1], at[2], at[3]), read_attributes({keyword: values})[keyword])
        for keyword, (at, values) in body.items()
    }


def plain(value: Any) -> Any:
    """Give a value as JSON gives it back: lists for tuples."""
    if isinstance(value, Mapping):
        return {key: plain(one) for key, one in value.items()}
    return [plain(one) for one in value] if isinstance(value, tuple | list) else value


def _number(number: Number) -> list[str]:
    return [number.value, number.issuer, number.site] if number.site else [number.value, number.issuer]


def _patient(number: Sequence[str], site: str) -> Number:
    value, issuer, *own = number
    # Before identifiers without an issuer were a site's own, none was written.
    return patient_number(value, issuer, own[0] if own else site)
