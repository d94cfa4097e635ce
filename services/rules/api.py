"""HTTP routes of rules: why a study went where it went, and what the rules would decide."""

from collections.abc import Callable
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query, Request
from pydantic import BaseModel, Field

from contracts.definition import RuleTest
from contracts.routing import RoutingDecided, Trigger
from libs.definition.case import RuleTestError, explain
from libs.storage.database import Database
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from libs.web.problem import Problem
from libs.web.recording import use_of
from services.rules import repository
from services.rules.in_force import InForce

Caller = Annotated[Principal, Depends(principal)]


class Decision(BaseModel):
    """One decision, as it was recorded."""

    id: int
    tenant: str
    decided_at: datetime
    decision: RoutingDecided


class DecisionList(BaseModel):
    """A page of decisions, the oldest first; `next` is the value of `after` for the page after it."""

    decisions: list[Decision]
    next: int | None


class TriedMatch(BaseModel):
    """A rule that would apply, and why."""

    rule: str
    trigger: Trigger
    delivers: tuple[str, ...] = Field(description="Destinations as the rule names them.")
    destinations: tuple[str, ...] = Field(description="The same with groups resolved.")
    priority: str
    transform: str | None
    inputs: dict[str, Any] = Field(description="What the condition read.")


class Tried(BaseModel):
    """What the rules would decide. Nothing is sent."""

    network_version: int
    matches: list[TriedMatch]
    errors: list[str]


class Try(BaseModel):
    """A study or instance to try the rules in force on, as in the `tests` of the definition."""

    study: dict[str, Any] = Field(default_factory=dict, description="Study attributes by DICOM keyword.")
    instance: dict[str, Any] = Field(default_factory=dict, description="Instance attributes; the study's if left out.")
    order: dict[str, Any] = Field(default_factory=dict, description="What was ordered.")
    source: dict[str, str] = Field(default_factory=dict, description="site, node.")
    at: str | None = Field(None, description="Local time of the site, such as 2026-11-20T10:00.")


def make_router(database: Database, in_force: Callable[[], InForce | None]) -> APIRouter:
    """Build the routes."""
    router = APIRouter(tags=["rules"])

    @router.get("/decisions", dependencies=[requires("decisions.read")])
    async def list_decisions(
        request: Request,
        caller: Caller,
        study: Annotated[str, Query(description="StudyInstanceUID.", max_length=64)],
        after: int = 0,
        limit: Annotated[int, Query(ge=1, le=500)] = 100,
    ) -> DecisionList:
        """Why a study went where it went: every decision on it."""
        async with database.reading() as tx:
            rows = await repository.decisions_of(tx, study, after, limit)
        seen = [row for row in rows if caller.sees(row.tenant, row.decided["source"]["site"])]
        if seen:
            use_of(request).concerns(study, seen[0].tenant)
        decisions = [
            Decision(id=row.id, tenant=row.tenant, decided_at=row.decided_at, decision=row.decided) for row in seen
        ]
        return DecisionList(decisions=decisions, next=rows[-1].id if len(rows) == limit else None)

    @router.post("/try", dependencies=[requires("rules.try")])
    async def try_rules(given: Try, caller: Caller) -> Tried:
        """What the rules in force would decide, without doing it."""
        if caller.tenants is not None or caller.sites is not None:
            # It names rules and destinations of everyone.
            raise Problem(
                403,
                "Not in scope",
                "The rules concern the whole network, and this token's scope is a part of it.",
                advice="Ask an administrator for a token without tenants and sites.",
            )
        rules = in_force()
        if rules is None:
            raise Problem(
                409, "No definition", "No network definition is in force.", advice="Apply one with `kivuko apply FILE`."
            )
        try:
            evaluations = explain(rules.rules, RuleTest(**given.model_dump(), delivers=()))
        except RuleTestError as error:
            raise Problem(422, "Not valid", str(error), advice="Mend the attributes that were given.") from error
        return Tried(
            network_version=rules.version,
            matches=[
                TriedMatch(
                    rule=match.rule,
                    trigger=trigger,
                    delivers=match.names,
                    destinations=match.destinations,
                    priority=match.priority,
                    transform=match.transform,
                    inputs=match.inputs,
                )
                for trigger, evaluation in evaluations.items()
                for match in evaluation.matches
            ],
            errors=[error for evaluation in evaluations.values() for error in evaluation.errors],
        )

    return router
