"""`flax-vae`: its commands."""

import sys
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from flax_vae.cli.evaluate import Compare, Evaluate
from flax_vae.cli.exits import run_command

_COMMANDS: dict[str, Callable[..., Any]] = {"evaluate": Evaluate, "compare": Compare}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `flax-vae`; returns the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    return run_command(lambda: tyro.extras.subcommand_cli_from_dict(_COMMANDS, prog="flax-vae", args=argv)())
