"""Who may deal with the network as a whole."""

from typing import Annotated

from fastapi import Depends

from libs.web.principal import Principal, principal
from libs.web.problem import Problem


def whole_network(caller: Annotated[Principal, Depends(principal)]) -> Principal:
    """Let in only callers whose scope is not narrowed. Raises Problem 403."""
    if caller.tenants is not None or caller.sites is not None:
        raise Problem(
            403,
            "Not in scope",
            "The network definition and the tokens concern the whole network, and this token's scope is a part of it.",
            advice="Ask an administrator for a token without tenants and sites.",
        )
    return caller


Caller = Annotated[Principal, Depends(whole_network)]
