"""Make images with a trained VAE: `python sample.py --help`."""

import sys

from flax_vae.system.signals import run_program


def _command() -> int:
    from flax_vae.cli.sample import make_samples

    return make_samples()


if __name__ == "__main__":
    sys.exit(run_program(_command))
