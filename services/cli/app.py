"""The command `kivuko`."""

from importlib.util import find_spec
from typing import Annotated

import typer

from services.cli import (
    dead,
    delivery,
    demo,
    destination,
    doctor,
    host,
    network,
    order,
    quarantine,
    receipt,
    replay,
    retention,
    rule,
    send,
    study,
    token,
    transform,
    trial,
    unmatched,
    worklist,
)

app = typer.Typer(
    name="kivuko",
    help="A national medical-imaging backbone. Start with `kivuko demo`, then `kivuko up`.",
    epilog=(
        "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 nothing answers, 4 not allowed. "
        "Commands talk to the socket in KIVUKO_HOME, or to KIVUKO_URL with KIVUKO_TOKEN."
    ),
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _say_version(wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - slow, and no other command needs it

        typer.echo(f"kivuko {version('kivuko')}")
        raise typer.Exit


@app.callback()
def _options(
    *,
    _version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", is_eager=True, callback=_say_version)
    ] = False,
) -> None:
    pass


app.command(epilog=host.UP)(host.up)
app.command(epilog=host.RUN)(host.run)
app.command(epilog=host.MIGRATE)(host.migrate)
app.command(epilog=network.APPLY)(network.apply)
app.add_typer(network.app, name="network")
app.add_typer(study.app, name="study")
app.add_typer(delivery.app, name="delivery")
delivery.app.command(epilog=order.RETRY)(order.retry)
delivery.app.command(epilog=order.HOLD)(order.hold)
delivery.app.command(epilog=order.RELEASE)(order.release)
delivery.app.command(epilog=order.CANCEL)(order.cancel)
delivery.app.command(epilog=order.REDIRECT)(order.redirect)
delivery.app.command(epilog=order.CHANGE)(order.change)
delivery.app.command(epilog=receipt.RECEIPT)(receipt.receipt)
delivery.app.command(epilog=receipt.KEY)(receipt.key)
app.add_typer(destination.app, name="destination")
app.add_typer(rule.app, name="rule")
rule.app.command(epilog=unmatched.UNMATCHED)(unmatched.unmatched)
rule.app.command(epilog=unmatched.ROUTE)(unmatched.route)
rule.app.command(epilog=replay.REPLAY)(replay.replay)
app.add_typer(transform.app, name="transform")
app.add_typer(worklist.app, name="worklist")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(retention.app, name="retention")
app.add_typer(dead.app, name="dead")
app.add_typer(token.app, name="token")
app.command(epilog=doctor.EXAMPLE)(doctor.doctor)
# These send and check with egress's own modules, which the image of another service doesn't hold.
if find_spec("services.egress") is not None:
    delivery.app.command(epilog=receipt.VERIFY)(receipt.verify)
    app.command(epilog=send.EXAMPLE)(send.send)
    app.command(epilog=demo.EXAMPLE)(demo.demo)
# This puts studies together with the modules of ingest and rules themselves.
if find_spec("services.rules") is not None and find_spec("services.ingest") is not None:
    rule.app.command("test", epilog=trial.TEST)(trial.try_files)


def main() -> None:
    """Run the command line."""
    app()
