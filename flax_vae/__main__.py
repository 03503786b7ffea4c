"""`flax-vae`, also as `python -m flax_vae`."""

import sys

from flax_vae.system.signals import start


def _command() -> int:
    from flax_vae.cli.main import main

    return main()


def main() -> int:
    """Run it; returns the exit code."""
    return start(_command)


if __name__ == "__main__":
    sys.exit(main())
