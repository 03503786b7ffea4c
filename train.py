"""Train a VAE: `python train.py --help`."""

import sys

from flax_vae.system.signals import run_program


def _command() -> int:
    from flax_vae.cli.train import train

    return train()


if __name__ == "__main__":
    sys.exit(run_program(_command))
