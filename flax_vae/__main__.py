"""`python -m flax_vae`: the same as `flax-vae`."""

import sys

from flax_vae.cli.main import main

sys.exit(main())
