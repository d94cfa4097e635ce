"""The one table of permissions, and how a route declares its own."""

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from types import MappingProxyType
from typing import Final, Literal

from fastapi import Request
from fastapi.params import Depends as Dependency

from contracts.access import Role
from libs.web.problem import Problem

#: What a refused caller is asked for, RFC 6750 section 3.
CHALLENGE: Final = 'Bearer realm="kivuko"'

#: What the audit log gets of a use: each try and its outcome, each answer with data of patients, or nothing.
Recorded = Literal["change", "patient-data", "no"]


@dataclass(frozen=True)
class Permission:
    """Who may, and whether a use is recorded."""

    roles: frozenset[Role]
    recorded: Recorded = "no"


def _for(*roles: Role, recorded: Recorded = "no") -> Permission:
    return Permission(frozenset(("admin", *roles)), recorded)


PERMISSIONS: Final[Mapping[str, Permission]] = MappingProxyType(
    {
        "network.read": _for("operator", "auditor", "integrator", "viewer"),
        "network.apply": _for("operator", recorded="change"),
        "network.rollback": _for("operator", recorded="change"),
        "tokens.read": _for("auditor"),
        "tokens.manage": _for(recorded="change"),
        "studies.read": _for("operator", "auditor", "viewer", recorded="patient-data"),
        "studies.manage": _for("operator", recorded="change"),
        # What a partner was told of, with a token for its tenant.
        "studies.fetch": _for("integrator", recorded="patient-data"),
        "quarantine.read": _for("operator", "auditor", recorded="patient-data"),
        "quarantine.manage": _for("operator", recorded="change"),
        "decisions.read": _for("operator", "auditor", "viewer", recorded="patient-data"),
        "rules.read": _for("operator", "auditor", "integrator", "viewer"),
        "rules.try": _for("operator", "viewer"),
        "rules.simulate": _for("operator", recorded="patient-data"),
        # With it anybody's pseudonym can be found: each use is recorded.
        "transforms.try": _for("operator", recorded="patient-data"),
        # Shows what a message says: its patient, too.
        "mappings.try": _for("operator", recorded="patient-data"),
        "messages.read": _for("operator", "auditor", recorded="patient-data"),
        "deliveries.read": _for("operator", "auditor", "viewer", recorded="patient-data"),
        "deliveries.manage": _for("operator", recorded="change"),
        "destinations.read": _for("operator", "auditor", "viewer"),
        "destinations.manage": _for("operator", recorded="change"),
        "destinations.test": _for("operator", recorded="change"),
        "orders.read": _for("operator", "auditor", "viewer", recorded="patient-data"),
        "orders.manage": _for("operator", recorded="change"),
        "dead-letters.read": _for("operator", "auditor", recorded="patient-data"),
        "dead-letters.replay": _for("operator", recorded="change"),
        "audit.read": _for("auditor", recorded="patient-data"),
        "status.read": _for("operator", "auditor", "integrator", "viewer"),
        "metrics.read": _for("operator", "auditor", "integrator", "viewer"),
        # Internal: no role has them, the services' own token does.
        "network.snapshot": Permission(frozenset(("admin", "operator", "auditor", "integrator", "viewer"))),
        "network.access": Permission(frozenset()),
    }
)

#: What the services' own token may.
SERVICE_PERMISSIONS: Final = frozenset(("network.snapshot", "network.access"))


@dataclass(frozen=True)
class Requires:
    """Dependency of a route that lets only callers with a permission in.

    Attributes
    ----------
    permission
        Which one.
    from_loopback
        Whether programs on the same machine need no token.
    """

    permission: str
    from_loopback: bool = False

    async def __call__(self, request: Request) -> None:
        """Check the caller. Raises Problem 401 without a caller and 403 without the permission."""
        caller = getattr(request.state, "principal", None)
        if caller is None and self.from_loopback and _is_local(request):
            return
        if caller is None:
            raise Problem(
                401,
                "Not signed in",
                "This address needs a token.",
                advice="Send the header `Authorization: Bearer TOKEN`, or use the local socket.",
                headers={"WWW-Authenticate": CHALLENGE},
            )
        use = request.state.use
        use.declared(self.permission, caller)
        if not caller.may(self.permission):
            raise Problem(
                403,
                "Not allowed",
                f"`{caller.name}` does not have the permission {self.permission}.",
                advice="Ask an administrator for a token whose role has it.",
                permission=self.permission,
            )
        await use.begin()


@dataclass(frozen=True)
class Public:
    """Dependency of a route that anyone may call."""

    reason: str

    async def __call__(self) -> None:
        """Let everyone in."""


def requires(permission: str, *, from_loopback: bool = False) -> Dependency:
    """Declare a route's permission: `dependencies=[requires("network.apply")]`. Raises KeyError for an unknown one."""
    if permission not in PERMISSIONS:
        raise KeyError(f"{permission} is not in libs/web/permission.py")
    return Dependency(Requires(permission, from_loopback))


def public(reason: str) -> Dependency:
    """Declare that anyone may call the route, and why."""
    return Dependency(Public(reason))


def _is_local(request: Request) -> bool:
    # Headers can only take this away: what a proxy passes on comes from elsewhere.
    if any(name in request.headers for name in ("forwarded", "x-forwarded-for", "x-real-ip", "via")):
        return False
    try:
        return request.client is not None and ip_address(request.client.host).is_loopback
    except ValueError:
        return False
