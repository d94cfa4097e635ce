"""Routes of a service's dead letters: what its handlers could not take, and its replay."""

import base64
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Query
from pydantic import BaseModel, Field

from libs.messaging.deadletter import DeadLetter, DeadLetters, ReplayError
from libs.web.permission import requires
from libs.web.principal import Principal, principal
from libs.web.problem import Problem
from libs.web.recording import NETWORK_TENANT

Caller = Annotated[Principal, Depends(principal)]


class Summary(BaseModel):
    """One dead letter, without its body."""

    id: int
    queue: str = Field(description="Queue that it came from and goes back to.")
    source: str | None = Field(description="Producer, if the message could be read.")
    type: str | None = Field(description="Type of event, if the message could be read.")
    subject: str | None = Field(description="What the event is about, if the message could be read.")
    tenant: str | None
    reason: str = Field(description="Why it could not be handled.")
    attempts: int
    died_at: datetime
    replayed_at: datetime | None


class Listed(BaseModel):
    """Dead letters, the latest first."""

    dead_letters: tuple[Summary, ...]
    before: int | None = Field(description="Ask with this for the next page; null: there is none.")


class Shown(Summary):
    """One dead letter with all that is known of it; the body may hold personal data."""

    message_id: str | None
    deaths: Any = Field(description="What the broker says of its way.")
    headers: dict[str, Any]
    content_type: str
    body: str = Field(description="The message: as text, or in base64 where it is not UTF-8.")
    encoding: str = Field(description="`utf-8` or `base64`.")


class Chosen(BaseModel):
    """Dead letters to replay."""

    ids: tuple[int, ...] = Field(min_length=1, max_length=1000)


class Replayed(BaseModel):
    """How many went back to their queue."""

    replayed: int


def dead_letter_router(letters: DeadLetters) -> APIRouter:
    """Give the routes under `/v1/SERVICE/dead-letters`."""
    router = APIRouter()

    @router.get("/dead-letters", dependencies=[requires("dead-letters.read")])
    async def list_dead_letters(
        caller: Caller,
        limit: Annotated[int, Query(ge=1, le=1000)] = 100,
        before: Annotated[int | None, Query(ge=1, description="Those below this number.")] = None,
    ) -> Listed:
        """List what could not be handled, the latest first."""
        found = await letters.list(limit, before)
        return Listed(
            dead_letters=tuple(_summary(letter) for letter in found if _in_scope(caller, letter)),
            before=found[-1].id if len(found) == limit else None,
        )

    @router.get("/dead-letters/{letter_id}", dependencies=[requires("dead-letters.read")])
    async def show_dead_letter(letter_id: int, caller: Caller) -> Shown:
        """Show one with its reason and its message."""
        return _shown(await _find(letters, letter_id, caller))

    @router.post("/dead-letters/replay", dependencies=[requires("dead-letters.replay")])
    async def replay_dead_letters(chosen: Chosen, caller: Caller) -> Replayed:
        """Hand them to their service once more, after the cause is mended. All or none are found."""
        for letter_id in chosen.ids:
            await _find(letters, letter_id, caller)
        try:
            return Replayed(replayed=await letters.replay(chosen.ids))
        except ReplayError as error:
            raise Problem(
                409, "Cannot be replayed", str(error), advice="Leave it out and replay the others."
            ) from error

    return router


async def _find(letters: DeadLetters, letter_id: int, caller: Principal) -> DeadLetter:
    letter = await letters.show(letter_id)
    if letter is None or not _in_scope(caller, letter):
        raise Problem(
            404,
            "No such dead letter",
            f"There is no dead letter {letter_id}, or it is not in your scope.",
            advice="`kivuko dead list` shows those that are.",
        )
    return letter


def _in_scope(caller: Principal, letter: DeadLetter) -> bool:
    return caller.sees(letter.tenant or NETWORK_TENANT, None)


def _summary(letter: DeadLetter) -> Summary:
    return Summary(**{name: getattr(letter, name) for name in Summary.model_fields})


def _shown(letter: DeadLetter) -> Shown:
    try:
        body, encoding = letter.body.decode(), "utf-8"
    except UnicodeDecodeError:
        body, encoding = base64.b64encode(letter.body).decode(), "base64"
    known = {name: getattr(letter, name) for name in Shown.model_fields if name not in ("body", "encoding")}
    return Shown(**known, body=body, encoding=encoding)
