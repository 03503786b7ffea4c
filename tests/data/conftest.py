"""Every test of data runs as if on a new machine."""

import pytest

from flax_vae.data.sources import fashion_mnist
from flax_vae.system import console


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """Provide a home without caches or data sets, and a download address without a server."""
    for variable, folder in {"HOME": "home", "XDG_CACHE_HOME": "cache", "TFDS_DATA_DIR": "tfds"}.items():
        monkeypatch.setenv(variable, str(tmp_path / folder))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(fashion_mnist, "USUAL_PLACES", ())
    monkeypatch.setattr(fashion_mnist, "URL", "http://127.0.0.1:9/")
    console.log_once.cache_clear()
    fashion_mnist.download.cache_clear()
