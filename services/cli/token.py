"""`kivuko token`: bearer tokens for people and programs."""

from typing import Annotated, get_args

import typer
from rich.markup import escape

from services.cli.client import connect
from services.cli.output import Json, fail, local_time, out, print_json, print_table

app = typer.Typer(help="Create, list and revoke bearer tokens.", no_args_is_help=True)

_CREATE = "Example: kivuko token create monitoring --role viewer --tenant north --days 365"
_LIST = "Example: kivuko token list"
_REVOKE = "Example: kivuko token revoke 0f3a52c1d4e6b798"


@app.command(epilog=_CREATE)
def create(
    name: Annotated[str, typer.Argument(help="Who or what it is for.")],
    *,
    role: Annotated[str, typer.Option(help="One of admin, operator, auditor, integrator, viewer.")],
    tenant: Annotated[list[str] | None, typer.Option(help="Only this tenant; may be given several times.")] = None,
    site: Annotated[list[str] | None, typer.Option(help="Only this site; may be given several times.")] = None,
    days: Annotated[int | None, typer.Option(min=1, help="Days until it expires; never, if left out.")] = None,
    json_output: Json = False,
) -> None:
    """Create a token. It is shown once and kept only as a hash."""
    from contracts.access import Role  # noqa: PLC0415 - slow, and `--help` does without

    if role not in get_args(Role):
        fail(
            f"There is no role {role!r}.", f"Take one of {', '.join(get_args(Role))}.", code=2, json_output=json_output
        )
    body = {"name": name, "role": role, "tenants": tenant or None, "sites": site or None, "days": days}
    created = connect(json_output=json_output).post("/v1/network/tokens", json=body)
    if json_output:
        print_json(created)
        return
    out.print(f"Token [bold]{escape(created['id'])}[/] for {escape(created['name'])}, role {created['role']}:")
    out.print(f"  {escape(created['token'])}")
    out.print("Copy it now: it is not shown again. Use it as KIVUKO_TOKEN, or as `Authorization: Bearer TOKEN`.")


@app.command("list", epilog=_LIST)
def list_tokens(*, json_output: Json = False) -> None:
    """List tokens; the tokens themselves are not kept."""
    found = connect(json_output=json_output).get("/v1/network/tokens")
    if json_output:
        print_json(found)
        return
    rows = [
        (
            token["id"],
            token["name"],
            token["role"],
            ", ".join(token["tenants"] or ()) or "all",
            ", ".join(token["sites"] or ()) or "all",
            local_time(token["created_at"]),
            local_time(token["expires_at"]) or "never",
            f"revoked {local_time(token['revoked_at'])}" if token["revoked_at"] else "in use",
        )
        for token in found["tokens"]
    ]
    columns = ("id", "name", "role", "tenants", "sites", "created", "expires", "state")
    print_table("Tokens", columns, rows, empty="No tokens: only the local socket can be used.")


@app.command(epilog=_REVOKE)
def revoke(
    token_id: Annotated[str, typer.Argument(help="Id, as `kivuko token list` shows it.")],
    *,
    json_output: Json = False,
) -> None:
    """Revoke a token; it stops working within seconds."""
    revoked = connect(json_output=json_output).delete(f"/v1/network/tokens/{token_id}")
    if json_output:
        print_json(revoked)
        return
    out.print(f"Token {escape(token_id)} of {escape(revoked['name'])} is revoked.")
