"""Where in a folder an instance belongs."""

from pathlib import PurePosixPath

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.egress.folder import Owner, names

uids = st.from_regex(r"[0-9]{1,9}(\.[0-9]{1,9}){0,5}", fullmatch=True)
tenants = st.from_regex(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", fullmatch=True)


@given(tenants, uids, uids)
def test_it_is_three_plain_names(tenant: str, study: str, sop: str) -> None:
    found = names(Owner(tenant, study), sop)
    assert found == (tenant, study, f"{sop}.dcm")
    assert PurePosixPath(*found).parts == found


@given(st.text(), st.text(), st.text())
def test_whatever_it_is_given_it_names_nothing_outside(tenant: str, study: str, sop: str) -> None:
    try:
        found = names(Owner(tenant, study), sop)
    except ValueError:
        return
    for name in found:
        assert name not in ("", ".", "..")
        assert not name.startswith(".")
        assert not set(name) & set("/\0\n")


@pytest.mark.parametrize("wrong", ["..", ".", "", "1..2", "1.2\n", "1/2", "/1", "1.2.", "1" * 65])
def test_what_is_no_uid_is_no_name(wrong: str) -> None:
    for owner, sop in ((Owner("t", wrong), "1"), (Owner("t", "1"), wrong)):
        with pytest.raises(ValueError, match="digits and dots"):
            names(owner, sop)


@pytest.mark.parametrize("wrong", ["..", "", "a/b", "-a", "a\n", "a" * 64])
def test_what_is_no_tenant_is_no_name(wrong: str) -> None:
    with pytest.raises(ValueError, match="tenant"):
        names(Owner(wrong, "1"), "1")
