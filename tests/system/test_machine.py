"""Settings of the process: jaxlib's flags, the compilation cache, and the warning of a program without them."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import jaxlib
import pytest
from platformdirs import user_cache_path

from flax_vae import use_machine
from flax_vae.system import machine

SWITCH = "--xla_cpu_experimental_ynn_fusion_type="
FLAG = f"{SWITCH}-reduce"


@pytest.fixture
def fresh_process(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """The state before JAX runs, with a jaxlib that computes wrong sums."""
    monkeypatch.setattr(machine, "_WRONG_SUMS", (jaxlib.__version__,))
    monkeypatch.setattr(machine, "backends_are_initialized", lambda: False)
    return monkeypatch


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (None, [FLAG]),
        ("", [FLAG]),
        ("--xla_dump_to=a", ["--xla_dump_to=a", FLAG]),
        (f"{SWITCH} --xla_dump_to=a", [SWITCH, "--xla_dump_to=a"]),
    ],
)
def test_flags_of_the_user_are_kept(fresh_process: pytest.MonkeyPatch, before: str | None, after: list[str]) -> None:
    fresh_process.delenv("XLA_FLAGS", raising=False)
    if before is not None:
        fresh_process.setenv("XLA_FLAGS", before)
    for _ in range(2):
        use_machine()
        assert os.environ["XLA_FLAGS"].split() == after


def test_an_unaffected_jaxlib_gets_no_flag(fresh_process: pytest.MonkeyPatch) -> None:
    fresh_process.setattr(machine, "_WRONG_SUMS", ())
    fresh_process.delenv("XLA_FLAGS", raising=False)
    use_machine()
    assert "XLA_FLAGS" not in os.environ


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


USE = """
import jax, jaxlib, numpy, sys
from functools import partial
from flax_vae import bind, encode, init, tutorial_dense, use_machine
from flax_vae.system import machine
machine._WRONG_SUMS = (jaxlib.__version__,)
if "early" in sys.argv: use_machine()
model = tutorial_dense((4, 4, 1))
shapes = jax.eval_shape(partial(init, model, jax.random.key(0), (4, 4, 1)))  # computes the key
params = jax.tree.map(lambda leaf: numpy.zeros(leaf.shape, leaf.dtype), shapes)
if "late" in sys.argv: use_machine()
for n in 1, 2: encode(model, params, numpy.zeros((n, 4, 4, 1))), bind(model, params)
"""


@pytest.mark.quick(1)
@pytest.mark.parametrize(("when", "warnings"), [("early", 0), ("late", 1), ("never", 1)])
def test_a_program_without_use_machine_is_warned_once(
    when: str, warnings: int, clean_environment: dict[str, str]
) -> None:
    words = [sys.executable, "-c", USE, when]
    environment = clean_environment | {"PYTHONWARNINGS": "always", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    assert done.stderr.count("RuntimeWarning") == warnings, done.stderr
    assert done.stderr.count("call flax_vae.use_machine() before anything runs.") == warnings
    assert warnings or not done.stderr
