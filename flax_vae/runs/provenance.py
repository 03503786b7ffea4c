"""The provenance of a run: command, time, data, objective, device and versions, as in `provenance.json`."""

import platform
import sys
import time
from importlib.metadata import version

import jax

from flax_vae.runs.data import Data, data_checksums
from flax_vae.runs.records import Record

_PACKAGES = ("flax_vae", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")


def provenance(data: Data, objective: str) -> Record:
    """Return the provenance of a training that starts now."""
    device = jax.devices()[0]
    return {
        "command": sys.argv,
        "time": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
        "data": data_checksums(data),
        "sources": {"train": data.train.provenance, "test": data.test.provenance},
        "objective": objective,
        "device": {"platform": device.platform, "kind": device.device_kind, "count": jax.device_count()},
        "versions": {name: version(name) for name in _PACKAGES} | {"python": platform.python_version()},
    }
