"""`secformer`: private inference of language models from the command line. Each command is a file of `commands`."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from typing import Annotated

import click
import typer
from typer.core import TyperGroup

import secformer_jax
from secformer_jax.cli.printable import printable
from secformer_jax.errors import UserError

INTERRUPTED = 130
COMMANDS: Mapping[str, str] = {
    "infer": "Answer texts under MPC: labels, entities, spans, likeness.",
    "embed": "The vector of a text under MPC.",
    "generate": "Let a language model answer under MPC, token by token.",
    "chat": "Talk to a language model under MPC.",
    "compare": "The cost and error of presets side by side.",
    "calibrate": "Measure the ranges that a preset needs of a model.",
    "evaluate": "Score a model on dev sets of GLUE.",
    "finetune": "Train a model on a GLUE task.",
    "distill": "Teach a student with other functions what a teacher does.",
    "certs": "Keys and certificates for a cluster.",
    "dealer": "Run the assistant server of a cluster.",
    "party": "Run a computing server of a cluster.",
    "publish": "Share a model among the servers of a cluster.",
    "gateway": "Answer by HTTP on this machine, asking a cluster.",
    "status": "What the servers of a cluster say of themselves.",
    "check": "A cluster's file, keys and servers: what is to be mended.",
}
"""In the order of --help, which imports none of them."""
EXTRAS: Mapping[str, str] = {
    **dict.fromkeys(("jax", "jaxlib", "flax", "jinja2", "safetensors", "spu", "threadpoolctl"), "mpc"),
    **dict.fromkeys(("optax", "scipy", "sklearn"), "train"),
    **dict.fromkeys(("gmssl_pyx", "uvloop"), "cluster"),
}
"""By package that only some commands need: what it is installed with."""


class Commands(TyperGroup):
    """The commands, each imported where it is run: a client's need neither JAX nor spu."""

    def list_commands(self, context: click.Context) -> list[str]:
        """Their names."""
        return list(COMMANDS)

    def get_command(self, context: click.Context, name: str) -> click.Command | None:
        """What --help lists of a command."""
        return click.Command(name, help=COMMANDS[name]) if name in COMMANDS else None

    def resolve_command(
        self, context: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """The command that is run, with its options."""
        name, listed, rest = super().resolve_command(context, args)
        return name, listed and command(str(name)), rest


def command(name: str) -> click.Command:
    """A command with its options."""
    module = importlib.import_module(f"secformer_jax.cli.commands.{name}")
    alone = typer.Typer(add_completion=False, rich_markup_mode="rich")
    alone.command(name)(getattr(module, name))
    return typer.main.get_command(alone)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"secformer_jax {secformer_jax.__version__}")
        raise typer.Exit


app = typer.Typer(
    cls=Commands,
    help="Private inference of language models under secure multi-party computation.",
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)


@app.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="The version, and nothing else.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    """Private inference of language models under secure multi-party computation."""


def run(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code; a mistake of the user's is one line on standard error and 2."""
    try:
        group = typer.main.get_command(app)
        code = group.main(list(arguments) or ["--help"], prog_name="secformer", standalone_mode=False) or 0
    except (UserError, click.ClickException) as error:
        message = error.format_message() if isinstance(error, click.ClickException) else str(error)
        return _mistake(message)
    except ModuleNotFoundError as error:
        package = (error.name or "").partition(".")[0]
        if package not in EXTRAS:
            raise
        return _mistake(f"{package} is not installed: pip install 'secformer_jax[{EXTRAS[package]}]'")
    except (KeyboardInterrupt, click.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:
        print("secformer: stopped", file=sys.stderr)
    return code


def _mistake(message: str) -> int:
    print("secformer:", printable(" ".join(message.split())), file=sys.stderr)
    return 2


def main() -> None:
    """Entry point of the command `secformer`."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # type: ignore[union-attr]
    sys.exit(run(sys.argv[1:]))
