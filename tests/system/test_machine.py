"""Settings of the process: the compilation cache."""

import re
from pathlib import Path

import jax
import jaxlib
import pytest
from platformdirs import user_cache_path

from flax_vae import use_machine


def test_the_compilation_cache_depends_on_the_version_and_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    before, folders = jax.config.jax_compilation_cache_dir, set()

    def folder() -> Path:
        jax.config.update("jax_compilation_cache_dir", None)
        use_machine()
        return Path(jax.config.jax_compilation_cache_dir)

    try:
        assert re.fullmatch(rf"jax-{re.escape(jaxlib.__version__)}-[0-9a-f]{{8}}", folder().name)
        assert folder().parent == user_cache_path("flax_vae")
        folders = {folder(), folder()}
        monkeypatch.setattr(Path, "read_text", lambda *_: "flags\t: sse")
        folders.add(folder())
        monkeypatch.setattr(jaxlib, "__version__", "0.0.0")
        folders.add(folder())
    finally:
        jax.config.update("jax_compilation_cache_dir", before)
    assert len(folders) == 3
