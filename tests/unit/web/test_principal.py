import pytest
from hypothesis import given
from hypothesis import strategies as st

from libs.web.principal import LOCAL, Principal

pytestmark = pytest.mark.unit

names = st.sampled_from(["a", "b", "c"])
scopes = st.none() | st.frozensets(names)


@given(tenants=scopes, sites=scopes, tenant=names, site=st.none() | names)
def test_a_narrower_scope_never_sees_more(
    tenants: frozenset[str] | None, sites: frozenset[str] | None, tenant: str, site: str | None
) -> None:
    caller = Principal(name="x", role="viewer", tenants=tenants, sites=sites)
    wider = Principal(name="x", role="viewer", tenants=None, sites=sites)
    assert not caller.sees(tenant, site) or wider.sees(tenant, site)
    assert caller.sees(tenant, site) == (
        (tenants is None or tenant in tenants) and (sites is None or (site is not None and site in sites))
    )
    assert LOCAL.sees(tenant, site)


@given(tenants=scopes, sites=scopes, tenant=names, sent=st.lists(names))
def test_one_site_in_scope_shows_the_study(
    tenants: frozenset[str] | None, sites: frozenset[str] | None, tenant: str, sent: list[str]
) -> None:
    caller = Principal(name="x", role="viewer", tenants=tenants, sites=sites)
    assert caller.sees_study(tenant, sent) == (
        caller.sees_tenant(tenant) and (sites is None or any(caller.sees(tenant, site) for site in sent))
    )


def test_what_belongs_to_no_site_is_hidden_from_a_caller_limited_to_sites() -> None:
    assert not Principal(name="x", role="viewer", sites=frozenset({"a"})).sees("t", None)
