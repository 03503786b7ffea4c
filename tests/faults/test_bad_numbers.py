"""Numbers out of range, and sizes that exceed any memory, are refused before any work is done."""

from pathlib import Path

import jax
import pytest
from refusals import assert_refused

from flax_vae import Config, UserError
from flax_vae.cli.main import main
from flax_vae.cli.sample import make_samples
from flax_vae.cli.train import train
from flax_vae.fitting.build import build

HUGE = str(10**9)


@pytest.fixture(autouse=True)
def empty_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "-1"], "--seed must be at least 0, not -1"),
        (["--seed", str(2**64 - 1)], "--seed must be at most 4,294,967,295"),
        (["--seed", str(2**32 - 1), "--seeds", "2"], "--seed must be at most 4,294,967,295"),
        (["--binarize", "fixed", "--binarize-seed", str(2**32)], "--binarize-seed must be at most 4,294,967,295"),
        (["--beta", "1e300"], "--beta must be at most 3.4e+38"),
        (["--learning-rate", "1e300"], "--learning-rate must be at most 3.4e+38"),
        (["--objective", "renyi(alpha=1e999)"], "alpha must be at least -3.4e+38"),
        (["--prior", "vamp(components=10000000000)"], "components must be at least 1 and at most 2,147,483,647"),
        (["--prior", "flow(layers=1000000)"], "layers must be at least 1 and at most 100"),
        (["--preset", "ladder(depths=(1, 1000000, 1))"], "depths must be at least 1 and at most 100"),
        (["--levels", "1000000"], "--levels must be at most 100"),
        (["--devices", "100000"], "--devices must be at most 1,024"),
        (["--latent-dim", str(10**30)], "--latent-dim must be at most 2,147,483,647"),
        (["--epochs", str(2**31 - 1)], "lower it to at most 2,147,483,647 steps"),
        (["--seeds", HUGE], "makes 1,000,000,000 trainings in one program; the limit is 1,000"),
        (["--latent-dim", HUGE], "The model with its optimiser: "),
        (["--preset", f"tutorial_dense(features=({HUGE},))"], "The model with its optimiser: "),
        (["--objective", "iwae", "--num-samples", HUGE], "1,000,000,000 draws for each of 128 images at a time: "),
        (["--prior", f"vamp(components={HUGE})"], f"--prior vamp(components={HUGE}): "),
        (
            ["--image-size", "1000000"],
            "600 images of 1000000 x 1000000 x 1: 572,204,589 MiB of memory are needed",
        ),
    ],
)
def test_bad_numbers_for_training(
    words: list[str], message: str, few_images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    usual = ["--preset", "tutorial_dense", "--dataset", str(few_images), "--epochs", "1", "--out", "run"]
    assert_refused(train, [*usual, *words], message, capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "-1"], "--seed must be at least 0, not -1"),
        (["--seed", str(2**70)], "--seed must be at most 4,294,967,295"),
        (["--temperature", "inf"], "--temperature must be greater than 0 and finite, not inf"),
        (["--num-samples", HUGE], f"--num-samples {HUGE}: 11,962,890 MiB of memory are needed, and "),
        (["--num-samples", HUGE, "--mode", "interpolate"], f"--num-samples {HUGE}: 11,962,890 MiB"),
        (["--num-samples", HUGE, "--mode", "traverse"], f"--num-samples {HUGE}: 478,515,625 MiB"),
        (["--num-samples", HUGE, "--sampler", "gmm"], f"--num-samples {HUGE}: 11,962,890 MiB"),
    ],
)
def test_bad_numbers_for_sampling(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(make_samples, ["pretrained:mlp", *words], message, capsys)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--seed", "-1"], "--seed must be at least 0, not -1"),
        (["--num-samples"], "--num-samples and --num-images must be at least 2"),
        (["--num-samples", "10", str(10**12)], "--num-samples 1000000000000: 122,070,312 MiB of memory are needed"),
        (["--method", "ais", "--annealing-steps", str(10**13)], "--annealing-steps 10000000000000: 114,440,917 MiB"),
    ],
)
def test_bad_numbers_for_evaluation(words: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert_refused(main, ["evaluate", "pretrained:mlp", *words], message, capsys)


def test_a_training_that_just_fits_is_not_refused(few_images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The estimate is the state and a gradient, less than a step needs, so nothing that fits is refused."""
    config = Config(preset="tutorial_dense", dataset=str(few_images), epochs=1, batch_size=1)
    state = build(config).initial_state()
    size = sum(leaf.nbytes for leaf in jax.tree.leaves((state, state.params)))
    monkeypatch.setattr("flax_vae.fitting.build.device_memory", lambda: size)
    build(config)
    monkeypatch.setattr("flax_vae.fitting.build.device_memory", lambda: size - 1)
    with pytest.raises(UserError, match="MiB of memory are needed"):
        build(config)
