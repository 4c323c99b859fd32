"""`secformer`: private inference of text encoders from the command line. Each command is a file of `commands`."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from typing import Annotated

import click
import typer

import secformer_jax
from secformer_jax.cli.commands.calibrate import calibrate
from secformer_jax.cli.commands.certs import certs
from secformer_jax.cli.commands.compare import compare
from secformer_jax.cli.commands.dealer import dealer
from secformer_jax.cli.commands.distill import distill
from secformer_jax.cli.commands.embed import embed
from secformer_jax.cli.commands.evaluate import evaluate
from secformer_jax.cli.commands.finetune import finetune
from secformer_jax.cli.commands.infer import infer
from secformer_jax.cli.commands.party import party
from secformer_jax.cli.commands.publish import publish
from secformer_jax.cli.commands.status import status
from secformer_jax.errors import UserError

INTERRUPTED = 130
COMMANDS = (infer, embed, compare, calibrate, evaluate, finetune, distill, certs, dealer, party, publish, status)
"""In the order of --help."""


def _version(wanted: bool) -> None:
    if wanted:
        print(f"secformer_jax {secformer_jax.__version__}")
        raise typer.Exit


app = typer.Typer(
    help="Private BERT inference under secure multi-party computation.",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="The version, and nothing else.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Private inference of text encoders under secure multi-party computation."""


for _command in COMMANDS:
    app.command()(_command)


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; a mistake of the user's is one line on standard error and 2."""
    try:
        command = typer.main.get_command(app)
        code = command.main(list(arguments) or ["--help"], prog_name="secformer", standalone_mode=False) or 0
    except (UserError, click.ClickException) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        print("secformer:", " ".join(message.split()), file=sys.stderr)
        return 2
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:
        print("secformer: stopped", file=sys.stderr)
    return code


def main() -> None:
    """Entry point of the command `secformer`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(run(sys.argv[1:]))
