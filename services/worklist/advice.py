"""What whoever writes an order by hand should look at once more, though it was taken. Pure."""

from collections.abc import Iterable, Iterator, Mapping

from contracts.definition import Definition
from services.worklist import item
from services.worklist.attributes import Attributes
from services.worklist.form import Added, Edited


def stations(definition: Definition, tenant: str) -> Mapping[str, str]:
    """Give the AE titles of a tenant's nodes that may ask for a worklist, each with its modality; empty: none said."""
    return {
        definition.aet_of(key): node.modality or ""
        for key, node in definition.nodes.items()
        if "worklist" in node.may and not node.retired and definition.tenant_of(key) == tenant
    }


def of_new(form: Added, known: Mapping[str, str]) -> list[str]:
    """Say what is odd about a new order, a sentence each without personal data; `known`: see `stations`."""
    said = list(_of_stations([form.station] if form.station else [], form.modality, known))
    if len(form.start) == len("YYYYMMDD"):
        said.append("there is a day, and no time: modalities are told midnight")
    if not (form.procedure or form.procedure_code or form.step_description):
        said.append("nothing says what is to be done: modalities are told the modality alone")
    return said


def of_edit(form: Edited, after: Attributes, known: Mapping[str, str]) -> list[str]:
    """Say what is odd about an edit.

    Parameters
    ----------
    after
        The worklist answer of the step that it is about, as it is now.
    """
    steps = after.get("ScheduledProcedureStepSequence", ())
    step = steps[0] if steps and not isinstance(steps[0], str) else {}
    said: list[str] = []
    if form.modality or form.station:
        said += _of_stations(item.stations(step), item.first(step, "Modality"), known)
    given = form.model_fields_set
    if form.procedure and "procedure_code" not in given and after.get("RequestedProcedureCodeSequence"):
        said.append("the code of the procedure is as it was: change procedure_code, too, or clear it")
    if form.procedure and "step_description" not in given:
        told = item.first(step, "ScheduledProcedureStepDescription")
        if told and told != form.procedure:
            said.append("the description of the step is as it was: change step_description, too")
    return said


def _of_stations(titles: Iterable[str], modality: str, known: Mapping[str, str]) -> Iterator[str]:
    for title in titles:
        if title not in known:
            yield f"no node that may ask for a worklist has the AE title {title}: see `kivuko network show`"
        elif modality and known[title] not in ("", modality):
            yield f"the station {title} is a {known[title]}, and the order is for {modality}"
