from datetime import timedelta

import pytest
from pydantic import SecretStr

from libs.web.access import MAX_AGE, AccessUnavailableError, AccessView, TokenRefusedError
from tests.unit.web.conftest import SettableClock, TokenSource

pytestmark = pytest.mark.unit


async def test_a_token_gives_role_and_scope(view: AccessView, tokens: TokenSource) -> None:
    tokens.add("t", "operator", tenants=("north",), sites=("a", "b"))
    caller = await view.find("t", "192.0.2.7")
    assert (caller.name, caller.role, caller.address, caller.local) == ("name-t", "operator", "192.0.2.7", False)
    assert caller.tenants == frozenset({"north"})
    assert caller.sites == frozenset({"a", "b"})


async def test_no_scope_means_everything_and_an_empty_scope_means_nothing(
    view: AccessView, tokens: TokenSource
) -> None:
    tokens.add("all")
    tokens.add("none", tenants=())
    assert (await view.find("all", "x")).sees("any", "where")
    assert not (await view.find("none", "x")).sees("any", "where")


async def test_a_wrong_token_is_refused(view: AccessView, tokens: TokenSource) -> None:
    tokens.add("t")
    for wrong in ("T", "t ", "", "x" * 10_000, "\N{SNOWMAN}"):
        with pytest.raises(TokenRefusedError):
            await view.find(wrong, "192.0.2.7")


async def test_a_token_works_up_to_the_moment_it_expires(
    view: AccessView, tokens: TokenSource, clock: SettableClock
) -> None:
    tokens.add("t", expires_at=clock() + timedelta(hours=1))
    clock.move(timedelta(hours=1) - timedelta(microseconds=1))
    assert (await view.find("t", "x")).name == "name-t"
    clock.move(timedelta(microseconds=1))
    with pytest.raises(TokenRefusedError, match="expired"):
        await view.find("t", "x")


async def test_a_new_token_works_at_once_and_a_revoked_one_stops_at_the_next_refresh(
    view: AccessView, tokens: TokenSource, clock: SettableClock
) -> None:
    await view.refresh()
    clock.move(timedelta(seconds=1))
    tokens.add("t")
    assert (await view.find("t", "x")).name == "name-t"
    tokens.entries.clear()
    assert await view.refresh()
    with pytest.raises(TokenRefusedError, match="revoked"):
        await view.find("t", "x")


async def test_unknown_tokens_do_not_make_it_ask_all_the_time(
    view: AccessView, tokens: TokenSource, clock: SettableClock
) -> None:
    for _ in range(50):
        with pytest.raises(TokenRefusedError):
            await view.find("guess", "x")
    assert tokens.asked == 1
    clock.move(timedelta(seconds=1))
    with pytest.raises(TokenRefusedError):
        await view.find("guess", "x")
    assert tokens.asked == 2


async def test_the_last_good_list_works_for_a_day(view: AccessView, tokens: TokenSource, clock: SettableClock) -> None:
    tokens.add("t")
    await view.refresh()
    tokens.away = True
    clock.move(MAX_AGE)
    assert not await view.refresh()
    assert (await view.find("t", "x")).name == "name-t"
    clock.move(timedelta(seconds=1))
    with pytest.raises(AccessUnavailableError):
        await view.find("t", "x")


async def test_without_a_list_nobody_gets_in_and_nobody_is_called_wrong(view: AccessView, tokens: TokenSource) -> None:
    tokens.add("t")
    tokens.away = True
    with pytest.raises(AccessUnavailableError):
        await view.find("t", "x")


async def test_the_services_token_needs_no_list(tokens: TokenSource, clock: SettableClock) -> None:
    tokens.away = True
    view = AccessView(tokens.fetch, clock, service_token=SecretStr("between us"))
    caller = await view.find("between us", "x")
    assert caller.role is None
    assert caller.may("network.access")
    assert not caller.may("studies.read")
