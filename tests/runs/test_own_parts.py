"""Parts of the user's own in a configuration do what registered ones do, and are imported only if named again."""

import json
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from flax_vae import Config, UserError, fit, load_run, resume
from flax_vae.cli.main import main

pytestmark = pytest.mark.usefixtures("without_pictures")
PARTS = {
    "likelihood": "own_parts:head",
    "prior": "own_parts:Prior(scale=1.0)",
    "posterior": "own_parts:Posterior",
    "objective": "own_parts:loss(weight=1.0)",
    "optimizer": "own_parts:adam(b1=0.8)",
    "schedule": "own_parts:constant",
}
MODEL = {kind: PARTS[kind] for kind in ("likelihood", "prior", "posterior")}
PARTS_MODULE = """
import flax.linen as nn
import jax.numpy as jnp
import optax
from flax_vae import ELBO, BernoulliLikelihood, DiagonalNormal, StandardNormal, sample

head = BernoulliLikelihood

class Prior(StandardNormal):
    scale: float = 2.0

    def __call__(self):
        assert self.scale == 1
        return super().__call__()

class Posterior(DiagonalNormal):
    pass

def loss(model, x, key, step, weight=2.0):
    loss, metrics = ELBO()(model, x, key, step)
    return weight * loss, metrics

def adam(learning_rate, b1=0.9):
    return optax.adam(learning_rate, b1)

def constant(peak):
    return optax.constant_schedule(peak)

def typical(model, params, key, num_samples, pixel_key):
    return sample(model, params, key, num_samples, 0.7, pixel_key=pixel_key)

def brightness(subject, scale=1.0):
    return {"mean": scale * jnp.asarray(subject.test.x).mean()}
"""


@pytest.mark.slow
def test_every_part_of_the_users_own_does_what_a_registered_one_does(
    few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Training, opening, resuming and sampling give the same numbers; only parts that are named again are imported."""
    (tmp_path / "own_parts.py").write_text(PARTS_MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("jax.config.update", lambda *_: None)  # JAX has fixed the devices of this process
    config = Config(dataset=str(few_images), epochs=1, batch_size=100)
    registered = fit(replace(config, optimizer="adam(b1=0.8)", schedule="constant"), tmp_path / "registered")
    run = fit(replace(config, beta=None, **PARTS), tmp_path / "own")
    assert run.record["test_loss"] == registered.record["test_loss"]
    assert {kind: getattr(load_run(run.directory, **MODEL).config, kind) for kind in PARTS} == PARTS
    assert json.loads((run.directory / "provenance.json").read_text())["model"].count("Prior") == 1

    monkeypatch.delitem(sys.modules, "own_parts")
    with pytest.raises(UserError, match="a likelihood, a prior and a posterior of your own: pass `likelihood` own_p"):
        load_run(run.directory)
    with pytest.raises(UserError, match=r"a prior of your own: pass `prior` 'own_parts:Prior\(scale=1.0\)'\."):
        load_run(run.directory, likelihood=PARTS["likelihood"], posterior=PARTS["posterior"])
    with pytest.raises(UserError, match=r"an objective, an optimizer and a schedule of your own: pass `objective` 'o"):
        resume(run.directory, **MODEL)
    with pytest.raises(UserError, match="`prior` normal: write my_module:my_prior, a part of your own"):
        load_run(run.directory, **MODEL | {"prior": "normal"})
    with pytest.raises(UserError, match=r"`prior` own_parts:Prior: .* was trained with normal\."):
        load_run(registered.directory, prior="own_parts:Prior")
    assert "own_parts" not in sys.modules
    assert resume(run.directory, **PARTS).step == run.step

    flags = [word for kind, text in MODEL.items() for word in (f"--{kind}", text)]
    own = ["sample", str(run.directory), *flags, "--sampler", "own_parts:typical", "--npy", "own.npy"]
    assert main(own) == 0
    assert main(["sample", str(registered.directory), "--temperature", "0.7", "--npy", "registered.npy"]) == 0
    np.testing.assert_array_equal(np.load("own.npy"), np.load("registered.npy"))
    capfd.readouterr()
    assert main(["sample", str(run.directory), *flags, "--sampler", "own_parts:absent"]) == 2
    assert "has no function or class absent" in capfd.readouterr().err
