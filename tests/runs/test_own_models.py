"""Runs of a model or an objective of the user's own: they say so, and every command opens that model or refuses.

The kind of fault is a run that describes, or opens as, another model than the one that was trained.
"""

import contextlib
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import flax.linen as nn
import optax
import pytest

from flax_vae import (
    Config,
    Run,
    UserError,
    fit,
    fit_many,
    load_run,
    resume,
    write_run,
)
from flax_vae.cli.main import main
from flax_vae.explore.write import write_explorer
from flax_vae.export.directory import export_run

pytestmark = pytest.mark.usefixtures("without_pictures")
MODULE = """
from dataclasses import dataclass
import flax.linen as nn
import jax.numpy as jnp
from flax_vae import ELBO, VAE, BernoulliLikelihood, ContinuousBernoulliLikelihood, DiagonalNormal, StandardNormal

class Encoder(nn.Module):
    width: int = 20

    @nn.compact
    def __call__(self, x):
        return nn.relu(nn.Dense(self.width)(x.reshape(len(x), -1)))

class Decoder(nn.Module):
    @nn.compact
    def __call__(self, z):
        return nn.Dense(784)(z).reshape(-1, 28, 28, 1)

def make_model(latent_dim=3, is_binary=False, width=20):
    likelihood = BernoulliLikelihood() if is_binary else ContinuousBernoulliLikelihood()
    return VAE(Encoder(width), DiagonalNormal(latent_dim), StandardNormal(latent_dim), Decoder(), likelihood)

def with_prior(prior, posterior, latent_dim):
    return VAE(Encoder(), posterior, prior, Decoder())

def make_number():
    return 3

@dataclass(frozen=True)
class Mine:
    weight: float = 1.0

    def __call__(self, model, x, key, step):
        loss, metrics = ELBO()(model, x, key, step)
        return self.weight * loss, metrics

def my_loss(model, x, key, step):
    return ELBO()(model, x, key, step)
"""


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    """A module of the user's in the current directory."""
    folder = tmp_path_factory.mktemp("own")
    (folder / "own_model.py").write_text(MODULE)
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.syspath_prepend(folder)
        import own_model

        yield own_model
    sys.modules.pop("own_model")


@pytest.fixture(scope="module")
def config(few_images: Path) -> Config:
    return Config(dataset=str(few_images), epochs=1, batch_size=100)


@pytest.fixture(scope="module")
def run(own: ModuleType, config: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A run of a model and an objective from Python."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flax_vae.fitting.fit.draw_pictures", lambda *_: None)
        out = tmp_path_factory.mktemp("runs") / "own"
        return fit(config, out, model=own.make_model(), objective=own.Mine(weight=2.0))


def test_the_configuration_names_what_was_trained(run: Run) -> None:
    """The model has no text that makes it, as its networks are values; the objective has one."""
    written = json.loads((run.directory / "config.json").read_text())
    assert written["preset"] == ":VAE"
    assert written["objective"] == "own_model:Mine(weight=2.0)"
    others = ("latent_dim", "likelihood", "prior", "posterior", "levels", "beta", "num_samples")
    assert {written[name] for name in others} == {None}
    assert "ContinuousBernoulliLikelihood" in json.loads((run.directory / "provenance.json").read_text())["model"]
    assert "VAE (own), own_model:Mine(weight=2.0)" in repr(run)
    assert run.latent_dims == (3,)


@pytest.mark.quick(1)
@pytest.mark.parametrize(
    "command",
    [
        "sample RUN",
        pytest.param("evaluate RUN --num-images 5", marks=pytest.mark.slow),
        "compress RUN",
        "explore RUN",
        "export RUN --format safetensors --out exported",
        "train --resume RUN --objective own_model:my_loss",
    ],
)
def test_every_command_refuses_or_opens_the_own_model(
    command: str,
    run: Run,
    own: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    words = [word.replace("RUN", str(run.directory)) for word in command.split()]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("jax.config.update", lambda *_: None)  # JAX has fixed the devices of this process
    assert main(words) == 2
    assert capfd.readouterr().err == (
        f"error: {run.directory} was trained with a model of your own: pass --preset my_module:make_model.\n"
    )
    assert main([*words, "--preset", "own_model:make_model"]) == (2 if words[0] == "compress" else 0)
    err = capfd.readouterr().err
    assert "another model" not in err
    if words[0] == "compress":
        assert "levels" in err  # pixels of a Normal likelihood have none


def test_a_run_resumes_with_the_own_model_and_objective_only(run: Run, own: ModuleType) -> None:
    both = r"a model and an objective of your own: pass `model` my_module:make_model and `objective` 'own_model:Mine\("
    with pytest.raises(UserError, match=both):
        resume(run.directory)
    with pytest.raises(UserError, match=r"own: pass `objective` 'own_model:Mine\(weight=2\.0\)'\."):
        resume(run.directory, model=own.make_model())
    assert resume(run.directory, model="own_model:make_model", objective=own.Mine(2.0)).step == run.step
    assert resume(run.directory, model=own.make_model(), objective="own_model:Mine(weight=2.0)").step == run.step


def test_another_model_is_not_opened_in_silence(
    run: Run, own: ModuleType, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A model of other shapes is refused; if only a setting differs, a warning names it."""
    written = write_run(run, tmp_path / "model")
    for where in (run.directory, written):
        load_run(where, own.make_model())
        assert capsys.readouterr().err == ""
        load_run(where, own.make_model(is_binary=True))
        warning = r"WARNING: .* was trained with another model: .*ContinuousBernoulli.*, here .* Bernoulli"
        assert re.search(warning, capsys.readouterr().err)
        with pytest.raises(UserError, match="belongs to another model"):
            load_run(where, own.make_model(width=21))
        with pytest.raises(UserError, match="of your own: pass `model`"):
            load_run(where)


def test_what_others_read_describes_the_own_model(run: Run, tmp_path: Path) -> None:
    card = (export_run(run, "safetensors", tmp_path / "exported") / "README.md").read_text()
    page = write_explorer(run, tmp_path / "page.html").read_text()
    assert "| preset | `VAE (own)` |" in card
    assert "| latent dimensions, top layer first | 3 |" in card
    assert 'load_run("model.safetensors", model="my_module:make_model")' in card
    assert "VAE (own)" in page
    assert "with 3 latent dimensions" in page
    for text in (card, page):
        assert "gated_mlp" not in text
        assert "bernoulli" not in text.replace("ContinuousBernoulli", "").lower()


@pytest.mark.slow
def test_a_preset_of_the_users_own(own: ModuleType, config: Config, tmp_path: Path) -> None:
    """By name it trains, as an ensemble too, opens and resumes; it gets the settings that it takes."""
    data = {"dataset": config.dataset, "epochs": 1, "batch_size": 100}
    model = "own_model:make_model(width=30)"
    first, second = fit_many(
        [Config(preset=model, latent_dim=4, seed=seed, **data) for seed in (0, 1)], tmp_path / "runs"
    )
    assert first.config.preset == second.config.preset == model
    with pytest.raises(UserError, match=rf"pass `model` '{re.escape(model)}'\."):
        load_run(first.directory)
    opened = load_run(first.directory, model)
    assert opened.latent_dims == (4,)
    assert opened.model == own.make_model(4, width=30)
    assert resume(first.directory, model=model).step == first.step
    hierarchy = Config(preset="own_model:with_prior", levels=2, prior="vamp(components=3)", **data)
    assert fit(hierarchy, tmp_path / "hierarchy").latent_dims == (2, 2)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"preset": "own_model:make_model", "prior": "vamp"}, "`prior` vamp.* has no effect: .* does not take `prior`"),
        ({"preset": "own_model:make_model", "levels": 2}, "`levels` 2 has no effect"),
        ({"preset": "own_model:make_model(depth=2)"}, "unexpected keyword argument 'depth'; the signature is"),
        ({"preset": "own_model:make_number"}, "made an object of type int, not a model, which is a Linen module"),
        ({"preset": "own_model:absent"}, "has no function or class absent"),
        ({"preset": ":VAE"}, "choose from .*, or write my_module:my_preset"),
    ],
)
def test_a_preset_that_cannot_be_used_is_refused_before_anything_is_written(
    settings: dict, message: str, own: ModuleType, config: Config, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        fit(Config(dataset=config.dataset, **settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"prior": "own_model:make_number"},
            "`prior` own_model:make_number made an object of type int, not a Linen module",
        ),
        ({"posterior": "own_model:absent"}, "`posterior` own_model:absent: .* has no function or class absent"),
        ({"prior": "builtins:max"}, "`prior` builtins:max: no signature found for builtin"),
        ({"likelihood": "own_model:make_number"}, "made an object of type int, not a likelihood"),
        ({"optimizer": "own_model:make_number"}, "made an object of type int, not an Optax transformation"),
        ({"schedule": "own_model:make_number"}, r"called as make_number\(count\), but 3 is not a callable object"),
        ({"prior": "own_model:make_number", "conditional": True}, "`conditional` requires `prior` normal"),
        (
            {"prior": "own_model:make_number(3)"},
            r"too many positional arguments; the signature is own_model:make_number",
        ),
    ],
)
def test_a_part_that_cannot_be_made_is_refused_before_anything_is_written(
    settings: dict, message: str, own: ModuleType, config: Config, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=message):
        fit(replace(config, **settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_nothing_that_a_run_names_is_imported(run: Run, tmp_path: Path) -> None:
    """A stranger's files may name any module as model and objective."""
    (tmp_path / "trap.py").write_text("raise SystemExit('executed')")
    settings = json.loads((run.directory / "config.json").read_text())
    settings |= {"preset": "trap:f", "objective": "trap:f", "prior": "trap:f", "optimizer": "trap:f"}
    (tmp_path / "config.json").write_text(json.dumps(settings))
    for open_it in (load_run, resume):
        with pytest.raises(UserError, match="of your own"):
            open_it(tmp_path)


def test_nothing_that_a_run_names_is_imported_beside_values(
    run: Run, own: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Values are passed for model, objective and optimiser, and the model contains its prior."""
    (tmp_path / "trap.py").write_text("import pathlib\npathlib.Path('executed').touch()")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    copy = shutil.copytree(run.directory, tmp_path / "copy")
    settings = json.loads((copy / "config.json").read_text())
    settings |= {"preset": "trap:f", "objective": "trap:f", "prior": "trap:f", "optimizer": "trap:f"}
    (copy / "config.json").write_text(json.dumps(settings))
    values = {"model": run.model, "objective": own.my_loss, "optimizer": optax.adam(1e-3)}
    with contextlib.suppress(UserError):  # not of what the run was trained with
        resume(copy, **values)
    assert not (tmp_path / "executed").exists()


def test_a_model_and_its_precision_are_as_configured(own: ModuleType, config: Config, tmp_path: Path) -> None:
    class Plain(nn.Module):
        """A model without a field dtype."""

    config = Config(dataset=config.dataset, precision="bfloat16")
    with pytest.raises(UserError, match="`precision` bfloat16 has no effect: Plain has no field dtype"):
        fit(config, tmp_path / "run", model=Plain())
