"""The table of roles and permissions, as people expect it: a change here is a change of who may do what."""

import pytest

from contracts.access import Role
from libs.web.permission import PERMISSIONS, SERVICE_PERMISSIONS, requires
from libs.web.principal import LOCAL, Principal
from tests.unit.web.conftest import Connect, TokenSource

pytestmark = pytest.mark.unit

ROLES: tuple[Role, ...] = ("admin", "operator", "auditor", "integrator", "viewer")

EXPECTED = {
    "network.read": "admin operator auditor integrator viewer",
    "network.apply": "admin operator",
    "network.rollback": "admin operator",
    "network.snapshot": "admin operator auditor integrator viewer",
    "network.access": "",
    "tokens.read": "admin auditor",
    "tokens.manage": "admin",
    "studies.read": "admin operator auditor viewer",
    "studies.manage": "admin operator",
    "studies.fetch": "admin integrator",
    "quarantine.read": "admin operator auditor",
    "quarantine.manage": "admin operator",
    "decisions.read": "admin operator auditor viewer",
    "rules.read": "admin operator auditor integrator viewer",
    "rules.try": "admin operator viewer",
    "rules.simulate": "admin operator",
    "transforms.try": "admin operator",
    "mappings.try": "admin operator",
    "messages.read": "admin operator auditor",
    "deliveries.read": "admin operator auditor viewer",
    "deliveries.manage": "admin operator",
    "destinations.read": "admin operator auditor viewer",
    "destinations.manage": "admin operator",
    "destinations.test": "admin operator",
    "orders.read": "admin operator auditor viewer",
    "orders.manage": "admin operator",
    "dead-letters.read": "admin operator auditor",
    "dead-letters.replay": "admin operator",
    "audit.read": "admin auditor",
    "status.read": "admin operator auditor integrator viewer",
    "metrics.read": "admin operator auditor integrator viewer",
}


def test_the_table_is_as_people_expect_it() -> None:
    assert {name: set(permission.roles) for name, permission in PERMISSIONS.items()} == {
        name: set(roles.split()) for name, roles in EXPECTED.items()
    }


@pytest.mark.parametrize("role", ROLES)
async def test_a_role_gets_in_where_the_table_says(role: Role, tokens: TokenSource, connect: Connect) -> None:
    tokens.add("t", role)
    client = connect("t")
    answers = {name: (await client.get(f"/v1/things/permission/{name}")).status_code for name in PERMISSIONS}
    assert answers == {name: 200 if role in roles.split() else 403 for name, roles in EXPECTED.items()}


def test_nobody_but_an_admin_manages_tokens_and_every_change_is_recorded() -> None:
    changing = [name for name in PERMISSIONS if name.rpartition(".")[2] in {"apply", "rollback", "manage", "replay"}]
    assert len(changing) >= 6
    assert all(PERMISSIONS[name].recorded == "change" for name in changing)


def test_the_services_token_has_the_internal_permissions_only() -> None:
    service = Principal(name="service", role=None)
    assert {name for name in PERMISSIONS if service.may(name)} == SERVICE_PERMISSIONS
    assert {"network.snapshot", "network.access"} == SERVICE_PERMISSIONS
    # A record names a role, which another service does not have.
    assert all(PERMISSIONS[name].recorded == "no" for name in SERVICE_PERMISSIONS)


def test_the_local_socket_may_everything_but_what_is_for_services() -> None:
    assert {name for name in PERMISSIONS if not LOCAL.may(name)} == {"network.access"}


def test_an_unknown_permission_is_a_defect() -> None:
    with pytest.raises(KeyError):
        requires("network.aply")
    with pytest.raises(KeyError):
        LOCAL.may("network.aply")
