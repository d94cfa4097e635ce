"""HTTP routes of what modalities asked, and of why they don't see an item."""

from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field
from sqlalchemy import Row

from contracts.definition import Definition
from libs.snapshot import NetworkView
from libs.storage.database import Database
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from libs.web.problem import Problem
from services.worklist import identifier, item_rows, matching, query_rows
from services.worklist.index import entry
from services.worklist.query import Query as Keys
from services.worklist.view import View, view_of
from services.worklist.why import Item, Kind, Question, reasons

Caller = Annotated[Principal, Depends(principal)]
_READ = requires("orders.read")
#: Items that one explanation is about, the newest.
_MOST_ITEMS = 50


class QueryView(BaseModel):
    """A query, and what it got."""

    id: int
    tenant: str
    site: str
    node: str
    calling_aet: str
    address: str
    keys: dict[str, Any] = Field(description="Keyword to what was asked for; of a sequence, the keys within.")
    outcome: str = Field(
        description="answered; limited: more matched than the node is given at once; broken-off by the modality; "
        "unreadable; refused; failed."
    )
    count: int = Field(description="Items that were returned.")
    hidden: int = Field(description="Items that matched and that the node does not see.")
    ignored: list[str] = Field(description="Keys by which nothing is matched.")
    replaced: list[str] = Field(description="Attributes in which characters were changed for the modality.")
    seconds: float
    first_at: datetime
    at: datetime
    times: int = Field(description="How often it was asked in a row, with the same outcome.")


class QueryList(BaseModel):
    """A page of queries, the newest first; `before` gets the page after it."""

    queries: list[QueryView]
    before: int | None


class ReasonView(BaseModel):
    """One thing that keeps an item off the worklist."""

    kind: Kind
    text: str
    key: str
    wanted: str
    had: tuple[str, ...]


class Explained(BaseModel):
    """An item, and why the node does not see it; no reason: it does."""

    item: int
    order: int
    tenant: str
    site: str
    patient_id: str
    patient_name: str
    accession: str
    modality: str
    stations: tuple[str, ...]
    start: str = Field(description="By the clock of the site, YYYYMMDDHHMMSS; empty if there is none.")
    state: str
    performed: str | None
    reasons: list[ReasonView]


class Explanation(BaseModel):
    """Why a node does not see items."""

    node: str
    aet: str
    asked: QueryView | None = Field(description="The query that it is about; none if the node has asked nothing yet.")
    items: list[Explained]
    notes: list[str]


def make_query_router(database: Database, network: NetworkView) -> APIRouter:
    """Build the routes."""
    router = APIRouter(tags=["worklist"])

    @router.get("/queries", dependencies=[_READ])
    async def list_queries(
        caller: Caller,
        ae: Annotated[str | None, Query(description="AE title or key of the node.", max_length=63)] = None,
        before: int | None = None,
        limit: Annotated[int, Query(ge=1, le=500)] = 50,
    ) -> QueryList:
        """List what modalities asked and got, the newest first."""
        node = None if ae is None else _node(_definition(network), ae, caller)
        async with database.reading() as tx:
            rows = await query_rows.listed(tx, node=node, before=before, limit=limit)
        return QueryList(
            queries=[_query(row) for row in rows if caller.sees(row.tenant, row.site)],
            before=rows[-1].id if len(rows) == limit else None,
        )

    @router.get("/explain", dependencies=[_READ])
    async def explain(
        caller: Caller,
        ae: Annotated[str, Query(description="AE title or key of the node.", max_length=63)],
        patient: Annotated[str | None, Query(description="Patient ID, or a part of the name.", max_length=199)] = None,
        accession: Annotated[str | None, Query(description="Accession number.", max_length=64)] = None,
        query: Annotated[int | None, Query(description="A recorded query; the node's last one if left out.")] = None,
    ) -> Explanation:
        """Say for each item of a patient or order why a node does not see it."""
        if (patient is None) == (accession is None):
            raise Problem(400, "Not clear", "Either `patient` or `accession` has to be given.")
        definition = _definition(network)
        node = _node(definition, ae, caller)
        async with database.reading() as tx:
            row = await _asked(tx, node, query)
            rows = (
                await item_rows.of_accession(tx, accession, _MOST_ITEMS)
                if accession is not None
                else await _of_patient(tx, str(patient))
            )
        seen = [each for each in rows if caller.sees(each.tenant, each.site)]
        view = view_of(definition, node)
        question = None if row is None else _question(row, view)
        return Explanation(
            node=node,
            aet=definition.aet_of(node),
            asked=None if row is None else _query(row),
            items=[_explained(each, view, question) for each in seen],
            notes=_notes(definition, node, row, seen),
        )

    return router


async def _asked(tx: Any, node: str, query: int | None) -> Row[Any] | None:
    if query is None:
        rows = await query_rows.listed(tx, node=node, before=None, limit=1)
        return rows[0] if rows else None
    row = await query_rows.one(tx, query)
    if row is None or row.node != node:
        raise Problem(404, "No such query", f"Query {query} of the node {node} is not recorded, or is no longer kept.")
    return row


async def _of_patient(tx: Any, patient: str) -> list[Row[Any]]:
    rows = list(await item_rows.of_patient(tx, patient, _MOST_ITEMS))
    if rows:
        return rows
    wanted = matching.fold(patient)
    return list(await item_rows.named_like(tx, lambda name: wanted in matching.fold(name), _MOST_ITEMS))


def _entry(row: Row[Any]) -> Any:
    return entry(row.id, row.tenant, row.site, row.start, row.revision, row.text)


def _definition(network: NetworkView) -> Definition:
    if network.current is None:
        raise Problem(409, "No network definition", "Nothing is known of nodes yet.", advice="Run `kivuko apply FILE`.")
    return network.current.definition


def _node(definition: Definition, ae: str, caller: Principal) -> str:
    """Find a node by its key or AE title. Raises Problem."""
    nodes = {
        key: node
        for key, node in definition.nodes.items()
        if caller.sees(definition.sites[node.site].tenant, node.site)
    }
    found = [ae] if ae in nodes else [key for key in nodes if definition.aet_of(key) == ae]
    if not found:
        raise Problem(
            404,
            "No such node",
            f"No node of the network definition has the AE title or key {ae}: it can't have asked for the worklist.",
            advice="Add the node with `may: [worklist]`, then run `kivuko apply FILE`; "
            "refused callers are listed in the log of the worklist.",
        )
    if len(found) > 1:
        raise Problem(
            409, "Several nodes", f"The AE title {ae} is that of {', '.join(found)}.", advice="Name one by its key."
        )
    return found[0]


def _question(row: Row[Any], view: View | None) -> Question | None:
    if not row.identifier or row.outcome == "unreadable":
        return None
    keys = identifier.decode(row.identifier, row.syntax)
    return Question(Keys(keys, "exact" if view is None else view.names), row.at, row.outcome)


def _explained(row: Row[Any], view: View | None, question: Question | None) -> Explained:
    made = _entry(row)
    item = Item(row.id, row.tenant, row.site, row.state, row.performed, row.start, row.changed_at, row.text)
    numbers = dict(reversed(made.numbers))
    return Explained(
        item=row.id,
        order=row.order_id,
        tenant=row.tenant,
        site=row.site,
        patient_id=numbers.get("PatientID", ""),
        patient_name=made.name,
        accession=numbers.get("AccessionNumber", ""),
        modality=made.modality,
        stations=made.stations,
        start=row.start,
        state=row.state,
        performed=row.performed,
        reasons=[ReasonView(**vars(reason)) for reason in reasons(item, view, question)],
    )


def _notes(definition: Definition, key: str, row: Row[Any] | None, items: list[Row[Any]]) -> list[str]:
    found = []
    node = definition.nodes[key]
    if node.retired:
        found.append("The node is retired in the network definition: it is not let in.")
    elif "worklist" not in node.may:
        found.append("The node may not ask for the worklist: add `worklist` to its `may`.")
    if row is None:
        found.append(
            "No query of this node is recorded: it has not asked, or it was not let in (see the log), "
            "or it calls another port or host."
        )
    elif row.outcome == "unreadable":
        found.append("The query could not be read as a dataset: nothing was returned.")
    elif row.ignored:
        found.append(f"Nothing is matched by {', '.join(row.ignored)}: the query was answered without.")
    if not items:
        found.append(
            "No item is known: the order has not come, or under another number. "
            "`kivuko worklist list --all` shows what there is."
        )
    return found


def _query(row: Row[Any]) -> QueryView:
    return QueryView.model_validate(row, from_attributes=True)
