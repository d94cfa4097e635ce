"""`kivuko rule`: which rules there are, why a study went where it went, and what other rules would do."""

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import typer
from rich.markup import escape

from services.cli.client import connect
from services.cli.output import Json, in_bytes, local_time, out, print_json, print_table

app = typer.Typer(
    help="Look at rules, see why a study went where it went, and try other rules before they are live: see "
    "docs/rules.md.",
    no_args_is_help=True,
)

_LIST = "Example: kivuko rule list"
_EXPLAIN = "Example: kivuko rule explain 1.2.826.0.1.3680043.8.498.1 --in-force"
_MARKS = {True: "[green]yes[/]", False: "[red]no[/] ", None: "[yellow]?[/]  "}


@app.command("list", epilog=_LIST)
def list_rules(*, json_output: Json = False) -> None:
    """List the rules in force, in the order in which they count, and when each last matched."""
    found = connect(json_output=json_output).get("/v1/rules/list")
    if json_output:
        print_json(found)
        return
    rows = [
        (
            *(each["position"], each["rule"]["name"], each["rule"]["trigger"], asked(each["rule"])),
            *(_when(each["rule"]), _matched(each)),
        )
        for each in found["rules"]
    ]
    print_table(
        f"Rules of version {found['network_version']}",
        ("", "rule", "trigger", "does", "when", "last matched"),
        rows,
        empty="The network definition has no rules: nothing goes anywhere.",
    )


@app.command(epilog=_EXPLAIN)
def explain(
    uid: Annotated[str, typer.Argument(metavar="STUDY", help="Study Instance UID, as `kivuko study list` shows it.")],
    *,
    in_force: Annotated[
        bool, typer.Option("--in-force", help="By the rules in force now, not by those that decided.")
    ] = False,
    tenant: Annotated[str | None, typer.Option(help="Needed only if several tenants have this UID.")] = None,
    json_output: Json = False,
) -> None:
    """Say of each rule whether it matched a study, and if not, which part of its condition was false, and why.

    The values are those that were recorded when the study was decided.
    """
    found = connect(json_output=json_output).get(
        "/v1/rules/explain", study=uid, tenant=tenant, under="in-force" if in_force else "recorded"
    )
    if json_output:
        print_json(found)
        return
    out.print(
        f"Version {found['study_version']} of the study, first from {escape(found['source']['node'])} at "
        f"{escape(found['source']['site'])}, decided {local_time(found['decided_at'])} under version "
        f"{found['decided_under']} of the definition."
    )
    if found["explained_under"] != found["decided_under"]:
        out.print(f"[yellow]Explained by the rules of version {found['explained_under']}.[/]")
    if found["note"]:
        out.print(f"[yellow]{escape(found['note'])}[/]")
    print_rules(found["rules"])
    print_routes(found["routes"])


def print_rules(rules: Sequence[Mapping[str, Any]]) -> None:
    """Print what each rule said, those that matched with what they ask for, the others with what was false."""
    for rule in rules:
        mark = _MARKS[False if rule["ended_by"] else rule["matched"]]
        out.print(f"{mark} [bold]{escape(rule['rule'])}[/] ({rule['trigger']}): {_said(rule)}")
        if rule["problem"]:
            out.print(f"      [yellow]{escape(rule['problem'])}[/]")
        if not rule["ended_by"] and rule["condition"] and not rule["condition"]["holds"]:
            for sentence in rule["because"]:
                out.print(f"      {escape(sentence)}")


def print_routes(routes: Sequence[Mapping[str, Any]]) -> None:
    """Print where a study goes."""
    rows = [
        (
            each["destination"],
            each["priority"],
            ", ".join(each["transforms"]),
            "held" if each["held"] else "",
            each["instances"],
            in_bytes(each["bytes"]),
        )
        for each in routes
    ]
    columns = ("destination", "lane", "transform", "", "instances", "size")
    print_table("It goes to", columns, rows, empty="It goes nowhere.")


def asked(rule: Mapping[str, Any]) -> str:
    """Say what a rule does."""
    said = [
        f"deliver {_names(rule['deliver'])}" if rule.get("deliver") else "",
        f"priority {rule['priority']}" if rule.get("priority") else "",
        f"transform {rule['transform']}" if rule.get("transform") else "",
        f"hold {rule['hold']}" if rule.get("hold") else "",
        f"notify {_names(rule['notify'])}" if rule.get("notify") else "",
        f"tag {', '.join(f'{name}={value}' for name, value in rule['tag'].items())}" if rule.get("tag") else "",
        f"quarantine: {rule['quarantine']}" if rule.get("quarantine") else "",
        f"discard: {rule['discard']}" if rule.get("discard") else "",
        "stop" if rule.get("stop") else "",
    ]
    return ", ".join(filter(None, said))


def _names(given: str | Sequence[str]) -> str:
    return given if isinstance(given, str) else ", ".join(given)


def _said(rule: Mapping[str, Any]) -> str:
    if rule["ended_by"]:
        return f"did not count: `{escape(rule['ended_by'])}` before it ended the evaluation"
    if not rule["matched"]:
        return "cannot be told" if rule["matched"] is None else "did not match"
    which = "" if rule["instances"] == rule["of"] else f"for {rule['instances']} of {rule['of']} instances: "
    return escape(which + asked(rule["asks"]))


def _matched(each: Mapping[str, Any]) -> str:
    if each["last_matched"]:
        return local_time(each["last_matched"])
    return f"not since {local_time(each['since'])}" if each["since"] else "not known"


def _when(rule: Mapping[str, Any]) -> str:
    when = rule.get("when")
    if when is None:
        return "always"
    return " ".join(when.split()) if isinstance(when, str) else json.dumps(when, ensure_ascii=False)
