"""`kivuko delivery hold`, `release`, `cancel`, `retry`, `redirect`, `change`: orders for one delivery or for many."""

import sys
from typing import Annotated, Any

import typer
from rich.markup import escape

from services.cli.client import Client, connect
from services.cli.delivery import PATH, instances, path
from services.cli.output import Json, fail, out, print_json

HOLD = 'Example: kivuko delivery hold --destination archive --reason "moved to another building"'
RELEASE = "Example: kivuko delivery release 0123456789abcdef0123456789abcdef"
CANCEL = 'Example: kivuko delivery cancel --destination old-archive --state failed --reason "switched off"'
RETRY = "Example: kivuko delivery retry --destination archive"
REDIRECT = "Example: kivuko delivery redirect --destination archive --state failed --to archive-2"
CHANGE = "Example: kivuko delivery change 0123456789abcdef0123456789abcdef --priority stat"

Id = Annotated[
    str | None,
    typer.Argument(metavar="ID", help="Id of a delivery, as `kivuko delivery list` shows it; or use the filters."),
]
Destination = Annotated[str | None, typer.Option(help="All to this destination.")]
Study = Annotated[str | None, typer.Option(help="All of this study, by its Study Instance UID.")]
State = Annotated[
    str | None, typer.Option(help="All in this state: open, waiting, held, failed, cancelled or diverted.")
]
Missing = Annotated[
    bool, typer.Option("--missing", help="Send again what the destination was seen not to have, and nothing else.")
]
Reason = Annotated[
    str | None,
    typer.Option(
        "--reason", "--why", help="Why, for those who look at it later; without data of patients.", show_default=False
    ),
]
To = Annotated[str, typer.Option("--to", help="Key of the destination that is to get it instead.")]
Priority = Annotated[str, typer.Option(help="Its lane from now on: stat, urgent, routine or bulk.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask before it is done to many.")]

#: What releases those that were held or cancelled together.
_BACK = {"hold": "--state held", "cancel": "--state cancelled"}
_DONE = {
    "hold": "held",
    "release": "released",
    "cancel": "cancelled",
    "retry": "tried again",
    "redirect": "sent elsewhere",
    "change": "changed",
    "resend": "sent again",
}


def hold(
    delivery: Id = None,
    *,
    destination: Destination = None,
    study: Study = None,
    state: State = None,
    reason: Reason = None,
    yes: Yes = False,
    json_output: Json = False,
) -> None:
    """Let nothing more go until it is released, not even of a later version of the study."""
    which = {"destination": destination, "study": study, "state": state}
    found = _order("hold", delivery, which, reason, yes=yes, json_output=json_output)
    if found is None:
        return
    out.print(
        f"Nothing more of it goes to {escape(found['destination'])} until "
        f"`kivuko delivery release {escape(found['id'])}`. What is under way now comes to its end."
    )


def release(
    delivery: Id = None,
    *,
    destination: Destination = None,
    study: Study = None,
    state: State = None,
    yes: Yes = False,
    json_output: Json = False,
) -> None:
    """Let go what a person held or, where it is named by its id or by --state, cancelled."""
    which = {"destination": destination, "study": study, "state": state}
    found = _order("release", delivery, which, None, yes=yes, json_output=json_output)
    if found is not None:
        because = f": {escape(found['reason'])}" if found["reason"] else ""
        out.print(f"Released. It is {found['state']} now{because}.")


def cancel(
    delivery: Id = None,
    *,
    destination: Destination = None,
    study: Study = None,
    state: State = None,
    reason: Reason = None,
    yes: Yes = False,
    json_output: Json = False,
) -> None:
    """Give up what is not sent yet. It never counts as done. A later version of the study asks for all of it again."""
    which = {"destination": destination, "study": study, "state": state}
    found = _order("cancel", delivery, which, reason, yes=yes, json_output=json_output)
    if found is None:
        return
    out.print(
        f"Nothing more of it goes to {escape(found['destination'])}; what has arrived there, stays there. If images "
        "are added to the study, it goes there after all: hold it instead if it must not. To take this back: "
        f"`kivuko delivery release {escape(found['id'])}`."
    )


def retry(
    delivery: Id = None,
    *,
    destination: Destination = None,
    study: Study = None,
    state: State = None,
    missing: Missing = False,
    yes: Yes = False,
    json_output: Json = False,
) -> None:
    """Try at once what is not sent, refused instances included, with all attempts before them.

    What failed at a transform is changed as that says now.

    With filters but without --state: all deliveries that failed. With --missing: what the destination said success for
    and was seen not to have, of all deliveries that fit.
    """
    which = {"destination": destination, "study": study, "state": state}
    answer = _order("resend" if missing else "retry", delivery, which, None, yes=yes, json_output=json_output)
    if answer is None:
        return
    if missing and not answer["instances"]:
        out.print("There is nothing to send again: the destination was not seen to lack anything of it.")
    elif answer["instances"]:
        out.print(f"{instances(answer['instances'])} tried again. See `kivuko delivery show {escape(delivery or '')}`.")
    else:
        out.print("There is nothing to try again: every instance that came so far is sent.")


def redirect(
    delivery: Id = None,
    *,
    to: To,
    destination: Destination = None,
    study: Study = None,
    state: State = None,
    reason: Reason = None,
    yes: Yes = False,
    json_output: Json = False,
) -> None:
    """Have all of it go to another destination instead, also what is held, or failed, or has arrived in part.

    A destination's transform is not got around, and no study goes back to the node that it came from.
    """
    which = {"destination": destination, "study": study, "state": state}
    found = _order("redirect", delivery, which, reason, yes=yes, json_output=json_output, to=to)
    if found is not None:
        out.print(
            f"It goes to {escape(to)} instead: `kivuko delivery list --study {escape(found['study_instance_uid'])}`. "
            f"To have it go to {escape(found['destination'])} after all: `kivuko delivery retry {escape(found['id'])}`."
        )


def change(
    delivery: Id = None,
    *,
    priority: Priority,
    destination: Destination = None,
    study: Study = None,
    state: State = None,
    reason: Reason = None,
    yes: Yes = False,
    json_output: Json = False,
) -> None:
    """Put it into another lane; what is asked for later does not change that."""
    which = {"destination": destination, "study": study, "state": state}
    found = _order("change", delivery, which, reason, yes=yes, json_output=json_output, priority=priority)
    if found is not None:
        because = f": {escape(found['reason'])}" if found["reason"] else ""
        out.print(f"Its lane is {found['priority']} now. It is {found['state']}{because}.")


def _order(
    verb: str,
    delivery: str | None,
    which: dict[str, str | None],
    reason: str | None,
    *,
    yes: bool,
    json_output: bool,
    **more: str,
) -> Any:
    """Give an order; return the answer for one delivery that is still to be told to a person.

    `more` is what the order needs besides: where to, which lane.
    """
    given = {name: value for name, value in which.items() if value is not None}
    if (delivery is None) == (not given):
        fail(
            "Say which delivery, by its id, or which ones, by filters; not both.",
            "`kivuko delivery list` shows them; --destination, --study and --state are filters.",
            code=2,
            json_output=json_output,
        )
    client = connect(json_output=json_output)
    if delivery is None:
        _order_many(client, verb, given, {**more, "reason": reason}, yes=yes, json_output=json_output)
        return None
    body = {**more, "reason": reason} if reason else more
    answer = client.post(f"{path(delivery)}/{verb}", json=body or None)
    if json_output:
        print_json(answer)
        return None
    return answer


def _order_many(
    client: Client, verb: str, given: dict[str, str], said: dict[str, str | None], *, yes: bool, json_output: bool
) -> None:
    body = {**given, **said}
    if not yes:
        _ask(client.post(f"{PATH}/{verb}", json={**body, "dry_run": True}), verb, json_output=json_output)
    done = client.post(f"{PATH}/{verb}", json=body)
    if json_output:
        print_json(done)
    elif not done["deliveries"]:
        out.print("No delivery fits: nothing was done.")
    else:
        what = f", {instances(done['instances'])}" if verb in ("retry", "resend") else ""
        again = " ".join(f"--{name} {value}" for name, value in given.items() if name != "state")
        out.print(f"{_deliveries(done['deliveries'])} {_DONE[verb]}{what}.")
        if verb in _BACK:
            out.print(f"To take it back: `kivuko delivery release {escape(f'{again} {_BACK[verb]}'.strip())}`.")


def _ask(counted: dict[str, Any], verb: str, *, json_output: bool) -> None:
    """Show how many there are, and go on only if the person wants it."""
    if not counted["deliveries"]:
        if json_output:
            print_json(counted)
        else:
            out.print("No delivery fits: nothing was done.")
        raise typer.Exit
    states = ", ".join(f"{count} {state}" for state, count in sorted(counted["states"].items()))
    told = f"{_deliveries(counted['deliveries'])} would be {_DONE[verb]}: {states}."
    if json_output or not sys.stdin.isatty():
        fail(told, "Nothing was done. Add --yes to do it.", code=2, json_output=json_output, problem=counted)
    out.print(told)
    if not typer.confirm("Go on?"):
        out.print("Nothing was done.")
        raise typer.Exit(1)


def _deliveries(count: int) -> str:
    return "1 delivery" if count == 1 else f"{count} deliveries"
