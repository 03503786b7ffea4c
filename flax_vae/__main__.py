"""The program `flax-vae`, also `python -m flax_vae`."""

import sys

from flax_vae.system.signals import run_program


def _command() -> int:
    from flax_vae.cli.main import main

    return main()


def main() -> int:
    """Run the command line and return its exit code."""
    return run_program(_command)


if __name__ == "__main__":
    sys.exit(main())
