"""One training in several processes: the same losses, and runs that resume in other numbers of processes."""

from pathlib import Path

import numpy as np
import pytest
from programs import SMALL, TRAIN_ONLY, call, together

from flax_vae import prepare_images
from flax_vae.runs import checkpoints
from flax_vae.runs.directory import RunDirectory

pytestmark = pytest.mark.slow
# On 600 images, 36 steps.
TRAINING = ["--preset", SMALL, "--learning-rate", "3e-3", "--batch-size", "48", "--epochs", "3"]


def losses(directory: Path) -> np.ndarray:
    """Return the training and test loss of each epoch."""
    records = RunDirectory(directory).metrics()
    return np.array([[record["train_loss"], record["test_loss"]] for record in records])


@pytest.fixture(scope="module")
def alone(few_images: Path, tmp_path_factory: pytest.TempPathFactory) -> np.ndarray:
    """The losses on one device."""
    out = tmp_path_factory.mktemp("alone") / "run"
    done = together(1, TRAIN_ONLY, *TRAINING, "--dataset", few_images, "--out", out, cwd=out.parent)
    assert [code for code, *_ in done] == [0], done
    return losses(out)


def test_three_processes_train_as_one(alone: np.ndarray, few_images: Path, tmp_path: Path) -> None:
    """Each process reads the images of its own devices, from disk, as if they did not fit in memory."""
    program = """
import sys
from unittest.mock import patch
import flax_vae.data.sources.prepared
from flax_vae.cli.train import train
flax_vae.data.sources.prepared._MOST_IN_MEMORY = 0
with patch("flax_vae.fitting.fit.draw_pictures"):
    sys.exit(train())
"""
    (tmp_path / "program.py").write_text(program)
    prepare_images(few_images, tmp_path / "prepared")
    words = [*TRAINING, "--devices", 3, "--dataset", tmp_path / "prepared", "--out", tmp_path / "run"]
    done = together(3, tmp_path / "program.py", *words, cwd=tmp_path)
    assert [code for code, *_ in done] == [0] * 3, done
    np.testing.assert_allclose(losses(tmp_path / "run"), alone, rtol=1e-5)
    assert ["\n3/3  " in out for _, out, _ in done] == [True, False, False]  # only the first process prints


def test_a_run_of_two_processes_resumes_in_one_on_eight_devices(
    alone: np.ndarray, few_images: Path, tmp_path: Path
) -> None:
    """As if it had been killed after its second epoch. In two processes, devices also shard the parameters."""
    layout = ["--devices", 4, "--fsdp", 2, "--keep", 9, "--dataset", few_images]
    done = together(2, "train.py", *TRAINING, *layout, "--out", tmp_path / "two", cwd=tmp_path)
    assert [code for code, *_ in done] == [0, 0], done
    assert (tmp_path / "two" / "pictures" / "samples.png").exists()
    np.testing.assert_allclose(losses(tmp_path / "two"), alone, rtol=1e-5)
    checkpoints.forget_after(tmp_path / "two" / "checkpoints", 24)
    code, out, err = call(TRAIN_ONLY, "--resume", tmp_path / "two", "--devices", 8, "--fsdp", 1, cwd=tmp_path)
    assert code == 0, err
    assert [f"\n{number}/3  " in out for number in (2, 3)] == [False, True]
    np.testing.assert_allclose(losses(tmp_path / "two"), alone, rtol=1e-5)


def test_members_and_their_microbatches_are_split_between_devices(few_images: Path, tmp_path: Path) -> None:
    """Two groups of devices in two processes: each device has half of the microbatches of one member."""
    calm = ["--optimizer", "adam", "--learning-rate", 1e-3]  # rounding errors grow faster with the recipe's Muon
    words = f"--preset {SMALL} --image-size 8 --epochs 1 --batch-size 48 --microbatch-size 6"
    for processes, devices in ((1, 1), (2, 4)):
        where = ["--devices", devices, "--dataset", few_images, "--out", tmp_path / f"{processes} {devices}"]
        done = together(processes, TRAIN_ONLY, *words.split(), "--seeds", 2, *calm, *where, cwd=tmp_path)
        assert all(code == 0 for code, *_ in done), done
    one, two = (RunDirectory(tmp_path / name).members() for name in ("1 1", "2 4"))
    for run, other in zip(one, two, strict=True):
        np.testing.assert_allclose(losses(run.path), losses(other.path), rtol=1e-5)


def test_every_process_evaluates_and_samples(few_images: Path, tmp_path: Path) -> None:
    """`fit` returns the same in all processes; only the first one writes, and calls callbacks, which read the state."""
    program = """
import sys, jax
from unittest.mock import patch
from flax_vae import Cluster, Config, fit, sample, use_machine

def call(epoch, metrics, state):
    jax.device_get(state.params)
    print("called after step", int(state.step))

images, out, _, where, _, count, _, number = sys.argv[1:]
use_machine(1, Cluster(where, int(count), int(number)))
with patch("flax_vae.fitting.fit.draw_pictures"):
    run = fit(Config(preset="tutorial_dense", dataset=images, epochs=1, batch_size=50), out, callbacks=[call])
print(run.metrics[-1]["test_loss"], float(sample(run.model, run.params, jax.random.key(0), 9).sum()))
"""
    (tmp_path / "program.py").write_text(program)
    done = together(2, tmp_path / "program.py", few_images, tmp_path / "run", cwd=tmp_path)
    assert [code for code, *_ in done] == [0, 0], done
    first, second = (out.splitlines() for _, out, _ in done)
    assert first[-1] == second[-1]
    assert [[line for line in out if "called" in line] for out in (first, second)] == [["called after step 12"], []]
