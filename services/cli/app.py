"""The command `kivuko`."""

from importlib.util import find_spec

import typer

from services.cli import dead, doctor, host, network, study, token

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
app.command()(host.up)
app.command()(host.run)
app.command()(host.migrate)
app.command()(network.apply)
app.add_typer(network.app, name="network")
app.add_typer(study.app, name="study")
app.add_typer(dead.app, name="dead")
app.add_typer(token.app, name="token")
app.command()(doctor.doctor)
# These two send with egress's own sender, which the image of another service doesn't hold.
if find_spec("services.egress") is not None:
    from services.cli import demo, send

    app.command()(send.send)
    app.command()(demo.demo)


def main() -> None:
    """Run the command line."""
    app()
