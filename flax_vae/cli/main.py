"""`flax-vae`: all commands."""

import sys
from collections.abc import Sequence
from typing import Any

import tyro

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

_CLASSES: tuple[Any, ...] = Train, Prepare, Sample, Evaluate, Compare, Explore, Export, Compress, Decompress
_COMMANDS = {command.__name__.lower(): command for command in _CLASSES}


def main(argv: Sequence[str] | None = None) -> int:
    """Run `flax-vae` and return the exit code."""
    argv = sys.argv[1:] if argv is None else argv
    command = _COMMANDS.get(argv[0]) if argv else None
    config = (tyro.conf.DisallowNone,)
    return run_command(
        lambda: tyro.extras.subcommand_cli_from_dict(_COMMANDS, prog="flax-vae", args=argv, config=config),
        command,
    )
