"""train.py and sample.py, as a user runs them."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from programs import ROOT, call, start
from run_directories import assert_same_run, truncate_checkpoint

from flax_vae import load_run
from flax_vae.cli.main import main
from flax_vae.cli.sample import make_samples
from flax_vae.cli.train import train
from flax_vae.data.sources.fashion_mnist import USUAL_PLACES
from flax_vae.runs.config import PARTS
from flax_vae.runs.run import run_data

FLAGS = ["preset", "dataset", "data-dir", "objective", "epochs", "batch-size", "latent-dim", "seed", "out", "resume"]
IWAE = (ROOT / "tests" / "known_models.py").read_text()


def wait_for_epochs(directory: Path, number: int, process: subprocess.Popen[str]) -> None:
    metrics, end = directory / "metrics.jsonl", time.monotonic() + 100
    while not metrics.exists() or metrics.read_text().count("\n") < number:
        assert time.monotonic() < end
        assert process.poll() is None, process.stderr.read()
        time.sleep(0.01)


def test_training_prints_a_line_per_epoch_and_the_next_command(trained: tuple[Path, str]) -> None:
    directory, out = trained
    assert directory.name.startswith("tutorial_dense-")
    lines = out.splitlines()
    assert len(lines) == 14
    assert lines[0].startswith("epoch  train loss  test loss  reconstruction ")
    record = load_run(directory).metrics[-1]
    shown = [f"{record[name]:.2f}" for name in ("train_loss", "test_loss", "test_distortion", "test_rate")]
    assert lines[12].split()[:5] == ["12/12", *shown]
    assert "flax-vae sample runs/tutorial_dense-" in lines[13]


@pytest.mark.slow
def test_a_run_stopped_by_ctrl_c_and_resumed_equals_an_undisturbed_one(
    trained: tuple[Path, str], recipe: list[object], tmp_path: Path
) -> None:
    """Parameters and metrics end up equal bit for bit; for the other signals, see tests/faults/test_kills.py."""
    directory = tmp_path / "stopped"
    process = start("train.py", *recipe, "--out", directory, cwd=tmp_path)
    wait_for_epochs(directory, 2, process)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=100)
    assert process.returncode == 130, err
    assert f"flax-vae train --resume {directory}" in err
    assert call("train.py", "--resume", directory, cwd=tmp_path)[0] == 0
    assert_same_run(load_run(trained[0]), load_run(directory))


def test_sampling_needs_only_the_run_and_is_reproducible(trained: tuple[Path, str], tmp_path: Path) -> None:
    code, out, err = call("sample.py", trained[0], "--npy", "images.npy", cwd=tmp_path)
    assert code == 0, err
    assert out.strip() == "samples.png"
    first = (tmp_path / "samples.png").read_bytes()
    with Image.open(tmp_path / "samples.png") as image:
        assert image.mode == "L"
        assert image.width > 9 * image.height  # ten in a row
    images = np.load(tmp_path / "images.npy")
    assert images.shape == (10, 28, 28, 1)
    assert 0 <= images.min() < images.max() <= 1
    again = tmp_path / "again.png"
    assert make_samples([str(trained[0]), "--out", str(again)]) == 0
    assert again.read_bytes() == first
    assert make_samples([str(trained[0]), "--out", str(again), "--seed", "1", "--overwrite"]) == 0
    assert again.read_bytes() != first


@pytest.mark.parametrize(
    ("mode", "arguments", "count"),
    [
        ("prior", ["--num-samples", "23", "--temperature", "0.5"], 23),
        ("grid", [], 900),
        ("reconstruct", ["--num-samples", "6"], 12),
        ("interpolate", ["--num-samples", "7"], 7),
        ("traverse", ["--num-samples", "5"], 10),
    ],
)
def test_every_mode_makes_its_images(
    mode: str, arguments: list[str], count: int, trained: tuple[Path, str], tmp_path: Path
) -> None:
    png, npy = tmp_path / "a.png", tmp_path / "a.npy"
    assert make_samples([str(trained[0]), "--mode", mode, "--out", str(png), "--npy", str(npy), *arguments]) == 0
    assert np.load(npy).shape == (count, 28, 28, 1)
    with Image.open(png) as image:
        image.load()
    if mode == "reconstruct":
        examples = load_run(trained[0]).examples.astype(np.float32) / 255
        assert all((examples == original).all((1, 2, 3)).any() for original in np.load(npy)[:6])


@pytest.mark.slow
def test_a_second_run_compiles_nothing(
    trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for name in [name for name in os.environ if name.startswith("JAX_")]:
        monkeypatch.delenv(name)
    compiled = []
    for _ in range(2):
        code, _, err = call("sample.py", trained[0], cwd=tmp_path)
        assert code == 0, err
        compiled.append({path.name for path in (tmp_path / "cache/flax_vae").glob("jax-*/*") if "-cache" in path.name})
    assert compiled[0] == compiled[1] != set()


@pytest.mark.usefixtures("without_pictures")
def test_an_objective_from_a_file_of_the_user(
    few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "my_losses.py").write_text(IWAE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    words = ["--preset", "tutorial_dense", "--dataset", str(few_images), "--epochs", "1"]
    assert train([*words, "--objective", "my_losses:iwae", "--out", "run"]) == 0
    run = load_run(tmp_path / "run")
    assert {"train_loss", "test_loss", "train_spread", "test_spread"} <= run.metrics[-1].keys()
    assert train(["--resume", "run"]) == 2
    assert "pass --objective my_losses:iwae" in capsys.readouterr().err
    assert train(["--resume", "run", "--objective", "my_losses:iwae"]) == 0


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_seeds_are_trained_together_and_summarised(
    few_images: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--preset", "tutorial_dense", "--dataset", str(few_images), "--epochs", "1", "--batch-size", "50"]
    words, group = [*words, "--conditional"], tmp_path / "group"
    assert train([*words, "--seeds", "2", "--seed", "5", "--out", str(group)]) == 0
    out = capsys.readouterr().out
    losses = [load_run(group / f"seed-{seed}").metrics[-1]["test_loss"] for seed in (5, 6)]
    spread = f"{np.mean(losses):.2f} ± {np.std(losses, ddof=1):.2f}"
    assert out.count(spread) == 2  # in the epoch's line, and in the table
    assert f"flax-vae sample {group / 'seed-6'}\n" in out
    assert train(["--resume", str(group)]) == 0
    assert spread in capsys.readouterr().out
    run, samples = str(group / "seed-6"), {}
    for label in ([], ["--label", "3"], ["--label", "7"]):
        npy = str(tmp_path / "samples.npy")
        assert make_samples([run, "--out", str(tmp_path / "samples.png"), "--npy", npy, "--overwrite", *label]) == 0
        samples["".join(label)] = np.load(npy)
    for number in (3, 7):  # with the same draws for every label
        np.testing.assert_allclose(samples[""][number], samples[f"--label{number}"][number], atol=1e-6)
    assert np.abs(samples["--label3"] - samples["--label7"]).max() > 0.05
    for flags, message in (
        (["--label", "shoe"], "--label shoe: the classes are 0, 1, 2"),
        (["--label", "3", "--mode", "traverse"], "--label is for --mode grid and prior"),
    ):
        assert make_samples([run, *flags]) == 2
        assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--seeds", "0"], "--seeds must be at least 1"),
        (["--dataset", "fashion_mnits"], "fashion_mnist"),
        (["--dataset", "absent/folder"], "absent/folder"),
        (["--learning-rate", "-1"], "--learning-rate must be greater than 0"),
        (["--objective", "nothing:here"], "no module nothing"),
        (["--resume", "absent"], "not a run directory"),
        (["--resume", "absent", "--seeds", "3"], "leave out --out, --seeds"),
        (["--prior", "vampp"], "my_module:my_prior. Did you mean vamp?"),
        (["--kl-warmup-epochs", "99"], "do not fit in"),
        (["--objective", "elbo(beta=warmup(steps=2))"], "--objective warmup(steps=2): got an unexpected keyword"),
        (["--coordinator", "host"], '--coordinator host: write "host:port"'),
        (["--num-processes", "2"], "--num-processes and --process-id need --coordinator"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    assert train(arguments) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert message in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "absent is not a run directory"),
        (["RUN", "--num-samples", "0"], "--num-samples must be at least 1"),
        (["RUN", "--mode", "reconstruct", "--num-samples", "99"], "stores only 64 test images"),
        (["RUN", "--temperature", "0"], "--temperature must be greater than 0"),
        (["RUN", "--label", "3"], "--label 3: the run is not conditional"),
        (["RUN", "--out", "a.jpeg"], "ends in .png"),
        (["RUN", "--out", "a.npy"], "makes images: name a file that ends in .png"),
        (["RUN", "--out", "absent/a.png"], "not a directory to write a.png to"),
    ],
)
def test_bad_input_for_sampling_is_one_line_and_exit_code_two(
    arguments: list[str],
    message: str,
    trained: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert make_samples([str(trained[0]) if word == "RUN" else word for word in arguments]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err
    assert not list(tmp_path.iterdir())


def test_a_truncated_checkpoint_is_one_line(
    trained: tuple[Path, str], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nothing but the warnings and the error is printed."""
    broken = shutil.copytree(trained[0], tmp_path / "broken")
    truncate_checkpoint(broken)
    assert make_samples([str(broken)]) == 2
    out, err = capfd.readouterr()
    assert out == ""
    *warnings, error = err.splitlines()
    assert len(warnings) == len(list((broken / "checkpoints").iterdir()))
    assert all(line.startswith("WARNING: checkpoint ") for line in warnings)
    assert error.endswith("all checkpoints are damaged.")


@pytest.mark.parametrize("command", [train, lambda words: main(["train", *words])], ids=["train.py", "flax-vae train"])
def test_help_lists_groups_of_flags_parts_and_the_defaults_of_presets(
    command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    with pytest.raises(SystemExit) as done:
        command(["--help"])
    assert done.value.code == 0
    out = capsys.readouterr().out
    for flag in FLAGS:
        assert f"--{flag}" in out
    for group in ("data", "model", "objective", "optimisation", "machine", "output"):
        assert f" {group} options " in out
    for parts in PARTS.values():
        for name in parts:
            assert f"- {parts.signature(name)}: {parts.meaning(name)[:20]}" in out
    assert "(default: 8; ladder: 4; residual_conv: 3; tutorial_conv: 2; tutorial_dense: 15)" in out
    assert out.rindex("examples:") > out.rindex("--resume")


def test_an_explicit_zero_overrides_the_recipe(monkeypatch: pytest.MonkeyPatch) -> None:
    """The README's command for the tutorial's own recipe depends on this."""
    configs = []
    monkeypatch.setattr("flax_vae.cli.train.fit", lambda config, out: configs.append(config) or exit(0))
    zeros = ["--warmup-steps", "0", "--microbatch-size", "0", "--beta", "0", "--seed", "0"]
    with pytest.raises(SystemExit):
        train(["--preset", "tutorial_conv", *zeros])
    (config,) = configs
    assert (config.warmup_steps, config.microbatch_size, config.beta, config.seed) == (0, 0, 0.0, 0)
    assert config.batch_size == 32  # left out, so from the recipe
    assert not config.conditional


def test_pixels_are_drawn(trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sample", str(trained[0]), "--pixels", "draw", "--npy", "drawn.npy"]) == 0
    drawn = np.load("drawn.npy")
    assert np.isin(drawn, (0, 1)).all()  # draws from Bernoulli distributions; their means are grey
    assert 0.1 < drawn.mean() < 0.6


def test_importing_is_light_and_silent() -> None:
    program = (
        "import sys, flax_vae; early = 'jax' in sys.modules; from flax_vae import *\n"
        "heavy = {'tensorflow', 'tensorflow_datasets', 'matplotlib', 'orbax', 'grain'} & sys.modules.keys()\n"
        "import jax; print(early, heavy or 'light', jax.config.jax_num_cpu_devices)"
    )
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONWARNINGS"}
    words = [sys.executable, "-W", "error", "-c", program]
    done = subprocess.run(words, capture_output=True, text=True, check=True, env=environment)
    assert done.stdout.split() == ["False", "light", "-1"]
    assert done.stderr == ""


@pytest.mark.optimized
@pytest.mark.slow
@pytest.mark.skipif(not Path(USUAL_PLACES[0]).is_dir(), reason="needs Debian's dataset-fashion-mnist")
def test_one_epoch_of_the_default_on_all_of_fashion_mnist(tmp_path: Path) -> None:
    code, out, err = call("train.py", "--epochs", "1", "--out", "run", cwd=tmp_path)
    assert code == 0, err
    run = load_run(tmp_path / "run")
    assert run.metrics[0]["step"] == 468
    assert run.metrics[0]["test_loss"] < 280, out
    assert len(run.examples) == 64


@pytest.mark.slow
def test_samples_from_a_mixture_fitted_to_the_latents(
    trained: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The mixture reproduces the spread of the training images' brightness better than the prior does."""
    samples = {}
    for sampler in ("prior", "gmm"):
        flags = ["--sampler", sampler, "--num-samples", "200", "--out", str(tmp_path / f"{sampler}.png")]
        assert make_samples([str(trained[0]), *flags, "--npy", str(tmp_path / f"{sampler}.npy")]) == 0
        samples[sampler] = np.load(tmp_path / f"{sampler}.npy")
    assert samples["gmm"].shape == (200, 28, 28, 1)
    run = load_run(trained[0])
    brightness = run_data(run).train.x.mean((1, 2, 3)) / 255
    errors = [abs(samples[sampler].mean((1, 2, 3)).std() - brightness.std()) for sampler in ("gmm", "prior")]
    assert errors[0] < errors[1]
    assert make_samples([str(trained[0]), "--sampler", "gmm", "--mode", "grid", "--out", str(tmp_path / "a.png")]) == 2
    assert "--sampler gmm makes new images: leave out --mode grid" in capsys.readouterr().err
