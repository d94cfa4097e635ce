"""Events about people and programs that used Kivuko. Producer: every service with routes."""

from typing import Literal

from contracts.fact import Fact, plain, pseudonym

Role = Literal["admin", "operator", "auditor", "integrator", "viewer"]


class AccessUsed(Fact):
    """Someone changed something, or read what belongs to a patient."""

    actor: str = plain("Name of the token, or `local` for the local socket.")
    role: Role = plain("Role that was used.")
    permission: str = plain("Permission that the route declares.")
    method: str = plain("HTTP method.")
    route: str = plain("Path template of the route, without values.")
    target: str | None = pseudonym("What it was about: a StudyInstanceUID, a version, an identifier.", default=None)
    status: int = plain("HTTP status of the answer; 100 in the record that is made before a change is tried.")
    address: str = plain("Source address, or `socket`.")


class TokenChanged(Fact):
    """A bearer token was created or revoked."""

    token_id: str = plain("Identifier of the token; never the token.")
    name: str = plain("Name that was given to it.")
    role: Role = plain("Its role.")
    change: Literal["created", "revoked"] = plain("What happened.")
    actor: str = plain("Who did it.")
