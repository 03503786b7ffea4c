"""The programs that XLA receives for GPUs and TPUs, lowered on a machine that has none."""

import re
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from jax.sharding import NamedSharding

from flax_vae import Config, fit
from flax_vae.fitting.build import build
from flax_vae.presets import PRESETS
from flax_vae.runs.data import read_given
from flax_vae.training.ensemble import make_ensemble_steps
from flax_vae.training.sharding import EACH_MEMBER, MEMBERS_AXIS, parameter_shardings

CONFIG = Config(batch_size=8, epochs=3, ema_decay=0.9)
IMAGES = np.random.default_rng(0).integers(0, 256, (80, 8, 8, 1), dtype=np.uint8)
STEPS = 5


def batched(tree: Any) -> Any:
    """The shapes of a tree with an axis for a single member."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((1, *leaf.shape), leaf.dtype), tree)


def dispatch_for(platform: str, config: Config, monkeypatch: pytest.MonkeyPatch) -> tuple[str, int]:
    """Return the program of a dispatch as `fit` makes it on a platform, and the number of arrays that steps change."""
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu" if platform == "cuda" else platform)
    training = build(config, given=read_given(IMAGES, None, config))
    mesh, state, totals = training.mesh(), training.state_shapes, training.zero_totals()
    shardings = parameter_shardings(mesh, state, MEMBERS_AXIS), NamedSharding(mesh, EACH_MEMBER)
    steps = make_ensemble_steps([partial(training.step_at, mesh=None)], mesh, shardings, deal_microbatches=False)
    settings = np.zeros(1, np.int32), jax.tree.map(lambda number: np.full(1, number, np.float32), training.settings)
    x, rows = training.data.train.x, np.zeros((1, STEPS, training.batch_size), np.int32)
    traced = steps.trace(settings, batched(state), batched(totals), (x, rows, np.int32(0), np.int32(STEPS)))
    program = traced.lower(lowering_platforms=(platform,)).as_text()
    return program, len(jax.tree.leaves((state, totals)))


@pytest.mark.quick(1)
@pytest.mark.parametrize("platform", ["cuda", "tpu"])
@pytest.mark.parametrize("preset", PRESETS)
def test_a_dispatch_is_one_program_that_stays_on_the_device(
    preset: str, platform: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The program calls neither Python nor a kernel for CPUs, and every buffer that it changes is donated."""
    program, changed = dispatch_for(platform, replace(CONFIG, preset=preset), monkeypatch)
    assert "stablehlo.while" in program
    assert "custom_call" not in program
    assert not re.search("callback|infeed|outfeed|stablehlo.send|stablehlo.recv", program)
    assert program.count("tf.aliasing_output") == changed


@pytest.mark.quick(1)
@pytest.mark.parametrize(("preset", "convolutions"), [("tutorial_conv", 4), ("residual_conv", 11)])
def test_all_convolutions_are_in_bfloat16_where_asked(
    preset: str, convolutions: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each convolution is computed forward and for two gradients; the images alone need none."""
    program, _ = dispatch_for("tpu", replace(CONFIG, preset=preset, precision="bfloat16"), monkeypatch)
    operands = re.findall(r"stablehlo\.convolution\(.* : \((.*)\) ->", program)
    assert len(operands) >= 3 * convolutions - 1
    assert all(pair.count("xbf16>") == 2 for pair in operands), operands


@pytest.mark.usefixtures("without_pictures")
def test_epochs_after_the_first_compile_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    compiled = []
    with jax.log_compiles():
        count = lambda *_: compiled.append(caplog.text.count("Finished XLA compilation"))  # noqa: E731
        fit(replace(CONFIG, preset="tutorial_dense"), tmp_path / "run", data=IMAGES, callbacks=[count])
    assert compiled[0] > 0
    assert compiled == compiled[:1] * 3
