"""Whether what is said under one Patient ID can be said of one person. Pure."""

from collections.abc import Mapping

from services.worklist import matching
from services.worklist.attributes import Attributes
from services.worklist.form import Said
from services.worklist.item import first

#: Field of the form to keyword: what one person has one of.
_ONE: Mapping[str, str] = {"patient_name": "PatientName", "birth_date": "PatientBirthDate", "sex": "PatientSex"}


def of_form(form: Said) -> Mapping[str, str]:
    """Give what a form says of who it is about, by field; what it does not say is left out."""
    said = {name: getattr(form, name) for name in _ONE}
    return {name: value for name, value in said.items() if value}


def of_attributes(attributes: Attributes) -> Mapping[str, str]:
    """Give what attributes say of who it is, by field of the form."""
    said = {name: first(attributes, keyword) for name, keyword in _ONE.items()}
    return {name: value for name, value in said.items() if value}


def differences(known: Mapping[str, str], said: Mapping[str, str]) -> list[str]:
    """Name the fields that both have, and have differently; case, accents and empty parts of a name do not count."""
    return [name for name in _ONE if name in known and name in said and _same(known[name]) != _same(said[name])]


def _same(text: str) -> str:
    return matching.fold(text.partition("=")[0].rstrip("^ "))
