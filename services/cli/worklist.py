"""`kivuko worklist`: orders and what modalities see of them."""

import typer

from services.cli import hl7

app = typer.Typer(no_args_is_help=True, help="Orders, and what modalities see of them: see docs/worklist-hl7.md.")
app.command("map", epilog=hl7.MAP)(hl7.map_message)
app.command(epilog=hl7.MESSAGES)(hl7.messages)
