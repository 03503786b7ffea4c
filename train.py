"""Train a VAE: `python train.py --help`."""

import sys

from flax_vae.cli.train import train

if __name__ == "__main__":
    sys.exit(train())
