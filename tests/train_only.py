"""train.py without pictures, whose drawing takes longer than a small training."""

import sys
from unittest.mock import patch

from flax_vae.system.signals import run_program


def _command() -> int:
    from flax_vae.cli.train import train

    with patch("flax_vae.fitting.fit.draw_pictures"):
        return train()


if __name__ == "__main__":
    sys.exit(run_program(_command))
