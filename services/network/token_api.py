"""HTTP routes of the tokens."""

from fastapi import APIRouter, Depends
from pydantic import BaseModel

from libs.storage.database import Database
from libs.web.permission import requires
from libs.web.problem import Problem
from services.network import repository
from services.network.repository import TakenError, Token
from services.network.scope import Caller, whole_network
from services.network.token import Created, NoSuchTokenError, Order, ReservedNameError, TokenRegister


class Tokens(BaseModel):
    """All tokens, revoked ones too."""

    tokens: list[Token]


def token_routes(router: APIRouter, database: Database, tokens: TokenRegister) -> None:
    """Add the routes."""

    @router.get("/tokens", dependencies=[requires("tokens.read"), Depends(whole_network)])
    async def list_tokens() -> Tokens:
        """List the tokens, without what only their holders know."""
        async with database.reading() as tx:
            return Tokens(tokens=await repository.list_tokens(tx))

    @router.post("/tokens", status_code=201, dependencies=[requires("tokens.manage")])
    async def create_token(order: Order, caller: Caller) -> Created:
        """Make a token. This answer shows it; it is not kept."""
        try:
            return await tokens.create(order, actor=caller.name)
        except (ReservedNameError, TakenError) as error:
            why = "stands for callers without a token" if isinstance(error, ReservedNameError) else "is in use"
            raise Problem(
                409,
                "Name taken",
                f"The name {order.name} {why}.",
                advice="Take another name, or revoke the token first.",
            ) from error

    @router.delete("/tokens/{token_id}", dependencies=[requires("tokens.manage")])
    async def revoke_token(token_id: str, caller: Caller) -> Token:
        """Revoke a token for ever."""
        try:
            return await tokens.revoke(token_id, actor=caller.name)
        except NoSuchTokenError as error:
            raise Problem(
                404,
                "No such token",
                "No token in use has this identifier.",
                advice="List them with `kivuko token list`.",
            ) from error
