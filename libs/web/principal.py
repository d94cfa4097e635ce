"""Who asks: the role and the scope behind a request."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar, cast

from starlette.requests import Request

from contracts.access import Role
from libs.web.permission import PERMISSIONS, SERVICE_PERMISSIONS

T = TypeVar("T")


@dataclass(frozen=True)
class Principal:
    """The caller of one request.

    Attributes
    ----------
    name
        Name of the token, `local` for the local socket, `service` for another service.
    role
        Its role; none for another service, which has the internal permissions only.
    tenants, sites
        What it may see; None means all of them.
    address
        Source address, or `socket`.
    local
        Whether the request came through the local socket.
    """

    name: str
    role: Role | None
    tenants: frozenset[str] | None = None
    sites: frozenset[str] | None = None
    address: str = "unknown"
    local: bool = False

    def may(self, permission: str) -> bool:
        """Tell whether the role has the permission. Raises KeyError for a permission that is not in the table."""
        if self.role is None:
            return permission in SERVICE_PERMISSIONS
        return self.role in PERMISSIONS[permission].roles

    def sees_tenant(self, tenant: str) -> bool:
        """Tell whether anything of the tenant is in scope."""
        return self.tenants is None or tenant in self.tenants

    def sees(self, tenant: str, site: str | None) -> bool:
        """Tell whether what belongs to this tenant and site is in scope.

        What belongs to no site is out of scope for a caller that is limited to sites.
        """
        return self.sees_tenant(tenant) and (self.sites is None or (site is not None and site in self.sites))

    def sees_study(self, tenant: str, sites: Iterable[str]) -> bool:
        """Tell whether a study of this tenant, to which these sites sent, is in scope: one site is enough."""
        return self.sees_tenant(tenant) and (self.sites is None or not self.sites.isdisjoint(sites))


LOCAL = Principal(name="local", role="admin", address="socket", local=True)


def principal(request: Request) -> Principal:
    """Give the caller; use it as a FastAPI dependency. Only routes that are not public have one."""
    return cast("Principal", request.state.principal)
