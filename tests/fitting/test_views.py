"""Runs of several views of the same examples, such as an image and a vector, and of labels that few examples have.

The kind of fault is a step between `fit` and the evaluation that assumes one array, or looks at a missing value.
"""

import shutil
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from two_views import TwoViews

from flax_vae import (
    VAE,
    BernoulliLikelihood,
    Config,
    DiagonalNormal,
    NormalLikelihood,
    Plan,
    PoissonLikelihood,
    Run,
    StandardNormal,
    UserError,
    fit,
    load_run,
    resume,
    write_run,
)
from flax_vae.cli.main import main
from flax_vae.data import Examples
from flax_vae.evaluation.samples import MODES
from flax_vae.pytrees import by_name
from flax_vae.runs.run import run_data

pytestmark = pytest.mark.usefixtures("without_pictures")
RNG = np.random.default_rng(0)
N = 60
CLASSES = np.arange(N) % 2
IMAGES = RNG.random((N, 3, 2)) < np.where(CLASSES, 0.9, 0.1)[:, None, None]
COUNTS = RNG.poisson(1 + 5 * CLASSES[:, None], (N, 5))
LABELS = np.where(RNG.random((N, 1)) < 0.3, np.eye(2)[CLASSES], np.nan)  # of a third of the examples
CONFIG = Config(batch_size=9, epochs=2, min_steps=0, learning_rate=3e-3)


class Encoder(nn.Module):
    """One layer over all views; a missing value is 0."""

    @nn.compact
    def __call__(self, views: Any) -> jax.Array:
        flat = [view.reshape(len(view), -1) for view in jax.tree.leaves(views)]
        return nn.relu(nn.Dense(16)(jnp.concatenate(flat, axis=-1)))


class ImageAndLabel(nn.Module):
    """A layer for each view."""

    @nn.compact
    def __call__(self, z: jax.Array) -> tuple[jax.Array, jax.Array]:
        return nn.Dense(6)(z).reshape(len(z), 3, 2, 1), nn.Dense(2)(z)


def semi_supervised() -> VAE:
    """Return a model of an image and its class, a one-hot vector that may be missing."""
    heads = (BernoulliLikelihood(), BernoulliLikelihood())
    return VAE(Encoder(), DiagonalNormal(2), StandardNormal(2), ImageAndLabel(), heads)


RUNS = {
    "a dictionary": (TwoViews(), {"image": IMAGES, "counts": COUNTS}),
    "a tuple, with missing labels": (semi_supervised(), (IMAGES, LABELS)),
    "images with missing pixels": (semi_supervised(), (np.where(IMAGES[..., None], 0.5, np.nan), np.eye(2)[CLASSES])),
}


@pytest.fixture(scope="module", params=RUNS)
def case(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[Run, nn.Module, Any]:
    """Return a run that was moved and resumed, its model and its data."""
    model, views = RUNS[request.param]
    path = tmp_path_factory.mktemp("runs")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flax_vae.fitting.fit.draw_pictures", lambda *_: None)
        fit(CONFIG, path / "run", data=views, labels=CLASSES, model=model)
        run = resume(shutil.move(path / "run", path / "moved"), epochs=4, model=model)
    return run, model, views


@pytest.mark.slow
def test_views_are_stored_as_they_were_given(case: tuple) -> None:
    """The values, missing ones included; and a tenth is held out of all views alike."""
    run, _, views = case
    data = run_data(run)
    assert [len(part) for part in (data.train, data.test)] == [54, 6]
    assert jax.tree.structure(data.train.x) == jax.tree.structure(run.examples) == jax.tree.structure(views)
    for part in (data.train, data.test):
        for view, of_data in zip(jax.tree.leaves(part.x), jax.tree.leaves(views), strict=True):
            given = of_data.reshape(N, *view.shape[1:])
            chosen = [i for i in range(N) if CLASSES[i] == part.labels[0]]
            read = view / 255 if view.dtype == np.uint8 else view
            rows = {row.tobytes() for row in np.round(255 * given[chosen].astype(np.float32)).reshape(len(chosen), -1)}
            assert np.round(255 * read[:1].astype(np.float32)).tobytes() in rows
        if part.mask is not None:
            jax.tree.map(lambda x, mask: np.testing.assert_array_equal(mask, ~np.isnan(x)), part.x, part.mask)


@pytest.mark.quick(1)
def test_a_run_of_views_samples_and_opens(case: tuple, tmp_path: Path) -> None:
    """From its directory and from a file, to the bit."""
    run, model, _ = case
    losses = [record["train_loss"] for record in run.metrics]
    assert min(losses) < losses[0]
    shapes = jax.tree.map(np.shape, run.examples)
    assert jax.tree.map(np.shape, run.sample(6)) == jax.tree.map(np.shape, run.reconstruct()) == shapes
    assert run.encode().mean().shape == (6, 2)
    assert jax.tree.map(np.shape, run.decode(np.zeros((6, 2), np.float32))) == shapes
    assert np.isfinite(run.log_likelihood(run.examples, num_samples=5)[0]).all()
    assert "views " in repr(run)
    opened = load_run(run.directory, model), load_run(write_run(run, tmp_path / "model.safetensors"), model)
    for again in opened:
        for result in ("sample", "reconstruct"):
            jax.tree.map(np.testing.assert_array_equal, getattr(again, result)(), getattr(run, result)())


@pytest.mark.slow
def test_a_run_of_views_is_evaluated(case: tuple) -> None:
    record = case[0].evaluate(Plan(num_samples=(5,), num_images=4))
    assert np.isfinite(record["importance_weighted"][0]["log_likelihood"])
    assert record["bits_per_dim"] is record["frechet"] is None
    assert record["accuracy"].keys() == {"nearest_neighbours", "linear"}


@pytest.mark.slow
def test_a_label_that_few_examples_have_is_a_view(tmp_path: Path) -> None:
    """A semi-supervised model learns from all images, and finds the classes that it was not given."""
    run = fit(
        Config(batch_size=9, epochs=60, min_steps=0, learning_rate=1e-2),
        tmp_path / "run",
        data=(IMAGES, LABELS),
        model=semi_supervised(),
    )
    unlabelled = np.isnan(LABELS).any(-1)
    images, no_labels = (255 * IMAGES[unlabelled, :, :, None]).astype(np.uint8), LABELS[unlabelled]
    found = np.asarray(run.reconstruct((images, no_labels))[1]).argmax(-1)
    assert (found == CLASSES[unlabelled]).mean() > 0.85


@pytest.mark.slow
def test_columns_that_say_nothing_are_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Columns without an observed value, and constant ones, of a view or of vectors alone."""
    rows = RNG.normal(size=(N, 9))
    rows[:, 2], rows[:, 3:], rows[0, 3] = 1, np.nan, 2
    model = VAE(Encoder(), DiagonalNormal(2), StandardNormal(2), nn.Dense(9), NormalLikelihood())
    fit(CONFIG, tmp_path / "rows", data=rows, model=model)
    err = capsys.readouterr().err
    assert "WARNING: columns without an observed value: 4, 5, 6, 7, 8; leave them out." in err
    assert "WARNING: constant columns: 2, 3; leave them out." in err
    fit(CONFIG, tmp_path / "views", data=(IMAGES, 0 * LABELS), model=semi_supervised())
    assert "WARNING: constant columns of view 1: 0, 1; leave them out." in capsys.readouterr().err


@pytest.mark.parametrize(
    ("views", "message"),
    [
        ((IMAGES, CLASSES), r"`data`: view 1 is an array of shape \(60,\); .* Classes are passed as `labels`"),
        ((IMAGES, COUNTS[:50]), "`data`: views of 50 and 60 examples"),
        ({"image": IMAGES, "more": {"counts": COUNTS}}, "`data`: view more is a dict"),
        ({0: IMAGES}, r"name each by a word: \{'image': images"),
        ((), "`data` has the views"),
        ((IMAGES, np.where(COUNTS > 3, np.inf, 0.0)), "`data`, view 1: vectors with infinite values"),
        ((3.0 * IMAGES, COUNTS), "`data`, view 0: floats from 0 to 3"),
        ((IMAGES, LABELS, LABELS), "x has the views 0, 1, 2, but the model's `likelihood` has the views 0, 1"),
        (IMAGES, r"x is a \w+, but the model's `likelihood` has the views 0, 1"),
        ((IMAGES, LABELS - 1), r"data holds views: x\[1\] holds float32 from -1 to 0; pass .* for a view decides"),
        ((IMAGES, COUNTS), r"data holds views: x\[1\] is int32; pass uint8"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_views_that_do_not_fit_are_refused(views: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        fit(CONFIG, tmp_path / "run", data=views, model=semi_supervised())
    assert not list(tmp_path.iterdir())


def test_settings_that_assume_one_array_are_refused(tmp_path: Path) -> None:
    """Settings of images, and presets of one array."""
    for settings, message in [
        ({}, "`preset` gated_mlp takes one array, not views: pass a `model` of your own"),
        ({"image_size": 4}, "`image_size` resizes images, but `data` holds views"),
        ({"binarize": "fixed"}, "`binarize` fixed samples pixels, but .* holds views"),
    ]:
        with pytest.raises(UserError, match=message):
            fit(Config(**settings), tmp_path / "run", data=(IMAGES, COUNTS))


@pytest.mark.quick(1)
def test_a_run_refuses_other_views(case: tuple) -> None:
    run, _, _ = case
    x = jax.tree.map(lambda view: view[:, :1], run.examples)
    with pytest.raises(UserError, match=r"`x\.\w+` has shape .*, but this run takes \(n, "):
        run.encode(x)
    with pytest.raises(UserError, match="`x` is one array, but this run takes the views "):
        run.encode(jax.tree.leaves(x)[0])


@pytest.mark.quick(1)
@pytest.mark.parametrize("mode", MODES)
def test_samples_of_views_are_files(mode: str, case: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An array for each view, and a picture of each view of images."""
    run, model, _ = case
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flax_vae.cli.arguments.OwnParts.load_run", lambda *_: load_run(run.directory, model))
    words = ["sample", str(run.directory), "--mode", mode, "--num-samples", "4"]
    assert main(words) == main([*words, "-o", "named.npz"]) == 0
    x = by_name(run.examples)
    (image,) = (name for name, view in x.items() if view.ndim == 4)
    assert {path.name for path in tmp_path.glob("*.png")} == {f"{stem}-{image}.png" for stem in ("samples", "named")}
    Path("named.npz").unlink()
    assert main([*words, "-o", "named.npz"]) == 2  # its picture exists
    with np.load("samples.npz") as arrays:
        assert {name: array.shape[1:] for name, array in arrays.items()} == {name: x[name].shape[1:] for name in x}
        if mode == "prior":
            jax.tree.map(np.testing.assert_array_equal, dict(arrays), jax.device_get(by_name(run.sample(4))))


COMMANDS = {
    "export": (["--format", "safetensors", "--out", "out"], "An export needs examples of one array"),
    "explore": (["-o", "page.html"], "The explorer needs images"),
    "compress": (["-o", "images.fvae"], "Compression needs images"),
    "sample": (["--npy", "samples.npy"], "several views: name a .npz file with --out"),
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_of_one_array_are_refused(
    command: str, case: tuple, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each in one line, before work starts."""
    run, model, _ = case
    words, message = COMMANDS[command]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flax_vae.cli.arguments.OwnParts.load_run", lambda *_: load_run(run.directory, model))
    assert main([command, str(run.directory), *words]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
    assert message in line
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("unchecked_types")
def test_a_decoder_of_other_views_is_refused(tmp_path: Path) -> None:
    model = semi_supervised().clone(likelihood=(BernoulliLikelihood(), NormalLikelihood(), PoissonLikelihood()))
    with pytest.raises(UserError, match=r"The decoder's output has the views 0, 1, but .* has the views 0, 1, 2"):
        fit(CONFIG, tmp_path / "run", data=(IMAGES, LABELS, COUNTS), model=model)


def test_examples_may_be_views(tmp_path: Path) -> None:
    examples = Examples((IMAGES, LABELS), CLASSES.astype(np.int32))
    run = fit(CONFIG, tmp_path / "run", data=examples, model=semi_supervised())
    assert run_data(run).train.labels is not None
