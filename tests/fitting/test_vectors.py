"""Runs of vectors and of counts, from the file to the evaluation.

The kind of fault is a command that assumes images.
"""

import re
import shlex
from pathlib import Path

import numpy as np
import pytest

from flax_vae import Config, Plan, UserError, evaluate, fit, load_images, load_run
from flax_vae.cli.main import main
from flax_vae.evaluation.tables import show
from flax_vae.explore.write import write_explorer
from flax_vae.export.directory import export_run

RNG = np.random.default_rng(0)
Z = RNG.normal(size=(300, 2))
VECTORS = (10 + Z @ RNG.normal(size=(2, 6)) + 0.3 * RNG.normal(size=(300, 6))).astype(np.float32)
COUNTS = RNG.poisson(np.exp(1 + 0.5 * Z @ RNG.normal(size=(2, 6))))
MISSING = np.where(RNG.random(VECTORS.shape) < 0.3, np.nan, VECTORS)
PARTS = {"vectors": (VECTORS, "normal"), "counts": (COUNTS, "poisson"), "missing": (MISSING, "per_pixel_normal")}


def config(folder: Path, name: str, **settings: object) -> Config:
    x, likelihood = PARTS[name]
    path = folder / f"{name}.npz"
    np.savez(path, x=x, y=(Z[:, 0] > 0).astype(int))
    defaults = {"preset": "tutorial_dense(features=(16,))", "likelihood": likelihood, "epochs": 8, "batch_size": 30}
    return Config(**({"dataset": str(path), "min_steps": 0, "learning_rate": 1e-2} | defaults | settings))


@pytest.fixture(
    scope="module", params=["missing", *(pytest.param(name, marks=pytest.mark.slow) for name in ("vectors", "counts"))]
)
def run(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    folder = tmp_path_factory.mktemp(request.param)
    return fit(config(folder, request.param), folder / "run")


def test_an_evaluation_of_vectors_counts_examples(run, capsys) -> None:
    """Figures and pictures of images are left out, and samples have the mean of the data."""
    record = evaluate(run.directory, Plan(num_samples=(20,), num_images=20))
    show(record, run.kind)
    out, err = capsys.readouterr()
    assert "nats per example" in out
    assert "choice of 20 examples" in out
    assert "image" not in out
    assert record["frechet"] is None
    assert re.search(r"Left out \(frechet\): the training (vectors|counts) are not images", err)
    assert record["bits_per_dim"] is None
    assert record["accuracy"].keys() == {"nearest_neighbours", "linear"}
    samples = np.asarray(run.sample(200))
    assert samples.shape == (200, 6)
    assert np.abs(samples.mean(0) - np.nanmean(load_images(run.config.dataset).x, 0)).max() < 2
    assert "vectors 6" in repr(run)
    pictures = {path.name for path in run.directory.glob("pictures/*")}
    assert pictures == {"curves.png", "evaluation.png"}


@pytest.mark.parametrize("mode", ["prior", "gmm", "reconstruct", "interpolate", "traverse", "grid"])
def test_samples_of_vectors_are_written_as_arrays(run, mode: str, tmp_path: Path, monkeypatch) -> None:
    """Whatever reads the examples leaves out missing values, as the mixture that is fitted to them does."""
    monkeypatch.chdir(tmp_path)
    words = [] if mode == "prior" else ["-o", f"{mode}.npy"]
    chosen = ["--sampler", "gmm"] if mode == "gmm" else ["--mode", mode]
    assert main(["sample", str(run.directory), *chosen, "--num-samples", "4", *words]) == 0
    (path,) = tmp_path.iterdir()
    assert path.name == ("samples.npy" if mode == "prior" else f"{mode}.npy")
    assert np.load(path).shape[1:] == (6,)
    assert np.isfinite(np.load(path)).all()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["-o", "v.png"], "--out v.png: .* makes vectors: name a file that ends in .npy"),
        (["-o", "v.jpeg"], "--out v.jpeg: name a file that ends in .png"),
        (["-o", "new.npy", "--npy", "other.npy"], "--out new.npy and --npy other.npy both name the file of vectors"),
        (["-o", "v.npy"], "--out v.npy already exists"),
    ],
)
def test_a_file_that_cannot_hold_vectors_is_refused(run, words: list[str], message: str, tmp_path, monkeypatch, capsys):
    """No file that the user did not name is written or mentioned."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("flax_vae.cli.sample.MODES.make", None)  # no work starts
    Path("v.npy").write_text("mine")
    assert main(["sample", str(run.directory), *words]) == 2
    assert re.search(message, capsys.readouterr().err)
    assert [path.read_text() for path in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
def test_a_training_on_vectors_counts_examples_and_names_a_command_that_works(
    tmp_path: Path, monkeypatch, capsys
) -> None:
    """With a part of the user's own, and names that a shell would take apart."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("jax.config.update", lambda *_: None)  # JAX has fixed the devices of this process
    Path("own_prior.py").write_text(
        "from flax_vae import StandardNormal\n\nclass Prior(StandardNormal):\n    a: int = 1\n"
    )
    np.save("table.npy", VECTORS)
    words = ["--dataset", "table.npy", "--likelihood", "normal", "--prior", "own_prior:Prior(a=2)", "--epochs", "1"]
    small = ["--preset", "tutorial_dense(features=(16,))", "--min-steps", "0"]
    assert main(["train", *words, *small, "--out", "my run"]) == 0
    out, err = capsys.readouterr()
    assert "examples/s" in out
    assert "image" not in out + err
    line, _, command = out.splitlines()[-1].partition("; sample with flax-vae ")
    assert line == "my run: curves are in my run/pictures"
    assert main(shlex.split(command)) == 0


def test_commands_of_images_are_refused(run, tmp_path: Path, capsys) -> None:
    with pytest.raises(UserError, match=r"The explorer needs images, but .* was trained on vectors"):
        write_explorer(run, tmp_path / "page.html")
    assert main(["compress", str(run.directory), "--out", str(tmp_path / "a.fvae")]) == 2
    assert "Compression needs images" in capsys.readouterr().err


def test_an_export_of_vectors_has_no_pictures(run, tmp_path: Path) -> None:
    files = {path.name for path in export_run(run, "safetensors", tmp_path / "out").iterdir()}
    assert "model.safetensors" in files
    assert not {name for name in files if name.endswith(".png")}
    assert "vectors of 6 values" in (tmp_path / "out" / "README.md").read_text()
    with pytest.raises(UserError, match=r"out is not a run directory: .* Name the file .*model\.safetensors instead"):
        load_run(tmp_path / "out")


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        (
            "vectors",
            {"likelihood": None},
            "vectors holds vectors: x holds .* `likelihood` normal takes vectors, and poisson",
        ),
        ("counts", {"likelihood": None}, "counts holds counts: x is int32; pass uint8 .* poisson counts"),
        ("vectors", {"likelihood": "poisson"}, "x holds float32 .*; pass whole numbers from 0"),
        (
            "vectors",
            {"preset": "tutorial_conv"},
            "`preset` tutorial_conv needs images, .*: choose gated_mlp, tutorial_dense",
        ),
        ("vectors", {"likelihood": "categorical"}, "`likelihood` categorical needs images"),
        ("vectors", {"prior": "vamp"}, "`prior` vamp needs images, .*: choose "),
        ("counts", {"binarize": "fixed"}, "`binarize` fixed samples pixels, but .* holds counts"),
        ("counts", {"image_size": 4}, "`image_size` resizes images, but .* holds vectors"),
    ],
)
def test_settings_of_images_are_refused(name: str, settings: dict, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        fit(config(tmp_path, name, **settings), tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (COUNTS - 5, "are not counts; save them as floats"),
        (np.where(VECTORS > 10, np.inf, VECTORS), "infinite values; save NaN for missing values"),
        (VECTORS.astype(complex), "save floats, or whole numbers for counts"),
        (np.zeros((0, 4)), r"vectors of shape \(0, 4\)"),
    ],
)
def test_arrays_that_are_no_vectors_are_refused(x: np.ndarray, message: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(UserError, match=message):
        load_images(tmp_path / "x.npy")


def test_the_kind_follows_from_the_array(tmp_path: Path) -> None:
    for name, x, kind, dtype in (
        ("a", VECTORS.astype(np.float64), "vectors", np.float32),
        ("b", COUNTS.astype(np.uint16), "counts", np.int32),
        ("c", RNG.integers(0, 255, (20, 5, 4), np.uint8), "images", np.uint8),
    ):
        np.save(tmp_path / f"{name}.npy", x)
        data = load_images(tmp_path / f"{name}.npy")
        assert (data.kind, data.x.dtype, data.mask) == (kind, dtype, None)
    np.save(tmp_path / "d.npy", MISSING)
    data = load_images(tmp_path / "d.npy")
    np.testing.assert_array_equal(data.mask, ~np.isnan(data.x))
