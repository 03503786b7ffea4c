"""`flax-vae`: all commands."""

import platform
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib.metadata import version
from typing import Any

import tyro

from flax_vae import __version__
from flax_vae.cli.compare import Compare
from flax_vae.cli.compress import Compress
from flax_vae.cli.decompress import Decompress
from flax_vae.cli.evaluate import Evaluate
from flax_vae.cli.exits import run_command
from flax_vae.cli.explore import Explore
from flax_vae.cli.export import Export
from flax_vae.cli.prepare import Prepare
from flax_vae.cli.sample import Sample
from flax_vae.cli.train import Train
from flax_vae.system.console import print_result, print_table
from flax_vae.system.errors import UserError

_CLASSES: tuple[Any, ...] = Train, Prepare, Sample, Evaluate, Compare, Explore, Export, Compress, Decompress
_COMMANDS = {command.__name__.lower(): command for command in _CLASSES}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `flax-vae` and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    command = _COMMANDS.get(argv[0]) if argv else None
    return run_command(lambda: _parse(argv), command)


def _parse(argv: Sequence[str]) -> Any:
    """Return the command of the arguments."""
    if not argv:
        return _show_commands
    if argv[0] == "--version":
        return _show_versions
    if not argv[0].startswith("-") and argv[0] not in _COMMANDS:
        close = get_close_matches(argv[0], _COMMANDS, n=1)
        advice = f"did you mean {close[0]}?" if close else f"the commands are {', '.join(_COMMANDS)}."
        raise UserError(f"flax-vae has no command {argv[0]}; {advice}")
    config = (tyro.conf.DisallowNone,)
    return tyro.extras.subcommand_cli_from_dict(_COMMANDS, prog="flax-vae", args=argv, config=config)


def _show_commands() -> None:
    """Print what each command does, and how to begin."""
    from rich.table import Table

    table = Table(box=None, show_header=False, pad_edge=False)
    for name, command in _COMMANDS.items():
        table.add_row(f"flax-vae {name}", command.__doc__.partition("\n")[0])
    print_table(table)
    print_result("\nBegin with flax-vae train, which needs no flags. Every command takes --help.")


def _show_versions() -> None:
    """Print the versions of the package and of the libraries that it computes with."""
    others = ", ".join(f"{name} {version(name)}" for name in ("jax", "flax", "optax"))
    print_result(f"flax_vae {__version__} ({others}, Python {platform.python_version()})")
