"""HTTP routes of rules as people read them: which there are, and what each said of a study."""

import asyncio
from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field, ValidationError

from contracts.definition import Definition
from libs.definition.ruleset import RuleSet, RuleSetError
from libs.storage.database import Database
from libs.telemetry import log
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from libs.web.problem import Problem
from libs.web.recording import use_of
from services.rules import history, transcript, uses
from services.rules.chronicle import Record
from services.rules.explanation import Said, document, explain, written
from services.rules.history import Recorded
from services.rules.in_force import InForce
from services.rules.replay_api import whole_network

_LOG = log.get(__name__)
Caller = Annotated[Principal, Depends(principal)]


class RuleView(BaseModel):
    """A rule as the definition has it."""

    position: int
    rule: dict[str, Any] = Field(description="The rule; what it does not say is left out.")
    since: datetime | None = Field(description="Since when a rule of this name is in force, as far as it is known.")
    last_matched: datetime | None = Field(description="When it last matched; none: not since then.")


class RuleList(BaseModel):
    """The rules in force, in order."""

    network_version: int
    rules: list[RuleView]


class PartView(BaseModel):
    """A part of a condition. What it saw is left out for callers who may not read studies."""

    text: str
    kind: str = Field(description="all (&&), any (||), not, choice (? :), or leaf: a comparison or the like.")
    holds: bool | None = Field(description="None: it could not be decided.")
    decisive: bool = Field(description="Whether the result is due to it.")
    values: dict[str, Any] | None = Field(description="Of a leaf: what it looked up, by name.")
    absent: list[str] | None = Field(description="Of a leaf: what it looked up that is not there.")
    computed: dict[str, Any] | None = Field(description="Of a leaf: what was made of what it looked up.")
    failure: str | None
    parts: list["PartView"]


class ExplainedRule(BaseModel):
    """What a rule said of a study."""

    rule: str
    trigger: str
    matched: bool | None = Field(description="None: what is recorded does not tell.")
    instances: int = Field(description="Instances for which it matched.")
    of: int = Field(description="Instances that it looked at.")
    ended_by: str | None = Field(description="A rule before it that ended the evaluation, so that it did not count.")
    problem: str | None
    because: list[str] = Field(description="The parts that the result is due to, as sentences.")
    condition: PartView | None = Field(description="The condition taken apart; for some instances, if they differ.")
    asks: dict[str, Any] = Field(description="What the rule does when it matches.")


class RouteView(BaseModel):
    """Where the study goes."""

    destination: str
    priority: str
    transforms: list[str]
    held: bool
    instances: int
    bytes: int


class Explained(BaseModel):
    """Why a study goes where it goes, or not."""

    study_instance_uid: str
    tenant: str
    study_version: int
    decided_at: datetime
    decided_under: int = Field(description="Version of the definition that decided.")
    explained_under: int = Field(description="Version of the definition whose rules are explained.")
    note: str | None = Field(description="What people should know of this explanation.")
    source: dict[str, Any]
    rules: list[ExplainedRule]
    routes: list[RouteView] = Field(description="Where it goes, as it was decided.")


def make_explain_router(database: Database, in_force: Callable[[], InForce | None]) -> APIRouter:
    """Build the routes."""
    router = APIRouter(tags=["rules"])

    def current() -> InForce:
        rules = in_force()
        if rules is None:
            raise Problem(
                409, "No definition", "No network definition is in force.", advice="Apply one with `kivuko apply FILE`."
            )
        return rules

    @router.get("/list", dependencies=[requires("rules.read"), Depends(whole_network)])
    async def list_rules() -> RuleList:
        """The rules in force, in order, and when each last matched."""
        rules = current()
        async with database.reading() as tx:
            known = await uses.known(tx)
        return RuleList(
            network_version=rules.version,
            rules=[
                RuleView(
                    position=position,
                    rule=written(rule),
                    since=known[rule.name].since if rule.name in known else None,
                    last_matched=known[rule.name].matched if rule.name in known else None,
                )
                for position, rule in enumerate(rules.rules.definition.rules, start=1)
            ],
        )

    @router.get("/explain", dependencies=[requires("decisions.read")])
    async def explain_study(
        request: Request,
        caller: Caller,
        study: Annotated[str, Query(description="StudyInstanceUID.", max_length=64)],
        tenant: Annotated[str | None, Query(description="Needed only if several tenants have this UID.")] = None,
        under: Annotated[
            Literal["recorded", "in-force"],
            Query(description="The rules that decided, or those in force, on what was recorded."),
        ] = "recorded",
    ) -> Explained:
        """For each rule, whether it matched the study, and which part was false and with what value."""
        async with database.reading() as tx:
            rows = await history.named(tx, study)
        found = _one(rows, caller, study, tenant)
        use_of(request).concerns(study, found.tenant)
        record = transcript.from_json(found.record)
        last = record.versions[-1]
        async with database.reading() as tx:
            kept = None if under == "in-force" else await history.definition_of(tx, last.network_version)
        note = None
        explained = None if kept is None else await asyncio.to_thread(_explained_by, kept, found.tenant, record)
        number = last.network_version
        if explained is None:
            rules = current()
            number = rules.version
            if under == "recorded" and number != last.network_version:
                note = (
                    f"Version {last.network_version} of the definition is not kept here, or this release can't read "
                    "it: these are the rules in force."
                )
            explained = await asyncio.to_thread(explain, rules.rules, found.tenant, last)
        return Explained(
            study_instance_uid=study,
            tenant=found.tenant,
            study_version=last.number,
            decided_at=last.decided_at,
            decided_under=last.network_version,
            explained_under=number,
            note=note,
            source=last.source.model_dump(mode="json"),
            rules=[
                ExplainedRule.model_validate(document(each, with_values=caller.may("studies.read")))
                for each in explained
            ],
            routes=[
                RouteView(
                    destination=destination,
                    priority=route.priority,
                    transforms=[one for one in route.transforms if one],
                    held=route.held,
                    instances=route.count,
                    bytes=route.size,
                )
                for destination, route in sorted(record.routes.items())
            ],
        )

    return router


def _one(rows: list[Recorded], caller: Principal, study: str, tenant: str | None) -> Recorded:
    seen = [
        row
        for row in rows
        if caller.sees_study(row.tenant, row.record["versions"][-1]["study"].get("Sites") or [row.site or ""])
        and tenant in (None, row.tenant)
    ]
    if not seen:
        raise Problem(
            404,
            "Not decided",
            f"Nothing is recorded of study {study}: it is not complete yet, was decided long ago, or is not known.",
            advice="`kivuko study show` tells whether it arrived, `GET /v1/rules/decisions` what was decided so far.",
        )
    if len(seen) > 1:
        raise Problem(
            409,
            "Several studies",
            f"Several tenants have study {study}.",
            advice=f"Say which: {', '.join(row.tenant for row in seen)}.",
        )
    return seen[0]


def _explained_by(document: bytes, tenant: str, record: Record) -> list[Said] | None:
    """Explain by the rules of a definition that was kept; nothing if this release can't read it."""
    try:
        rules = RuleSet(Definition.model_validate_json(document))
    except (ValidationError, RuleSetError) as error:
        _LOG.warning("a definition that was kept is not readable", error=type(error).__name__)
        return None
    return explain(rules, tenant, record.versions[-1])
