"""Trainings on images that stay on disk have the bits of trainings from memory, also when resumed within an epoch."""

import json
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from interruptions import interrupt_at
from run_directories import assert_same_run

from flax_vae import Config, Run, UserError, fit, fit_many, prepare_images, resume, sample_gmm
from flax_vae.batches import OnDisk
from flax_vae.evaluation.evaluate import evaluate
from flax_vae.evaluation.plan import Plan
from flax_vae.fitting.loop import Interrupted
from flax_vae.runs.run import run_data


@pytest.fixture(scope="module")
def prepared(few_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "prepared"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flax_vae.data.records._SHARD_BYTES", 784 * 250)  # three files
        prepare_images(few_images, out)
    return out


@pytest.fixture(scope="module")
def config(prepared: Path) -> Config:
    return Config(
        preset="tutorial_dense", dataset=str(prepared), epochs=2, batch_size=50, learning_rate=3e-3, conditional=True,
        validation=0.1,
    )  # fmt: skip


@pytest.fixture(autouse=True, scope="module")
def streamed() -> Iterator[None]:
    """Send images in blocks of three steps, so that the ten steps of an epoch are 3 + 3 + 3 + 1."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flax_vae.fitting.host_input._RESIDENT_BYTES", 0)
        patch.setattr("flax_vae.fitting.host_input._BLOCK_BYTES", 3 * 50 * (784 + 40))
        yield


@pytest.fixture(scope="module")
def run(config: Config, few_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training on the same images in memory, without pictures."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flax_vae.fitting.fit.draw_pictures", lambda *_: None)
        return fit(replace(config, dataset=str(few_images)), tmp_path_factory.mktemp("runs") / "memory")


@pytest.fixture
def on_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("flax_vae.data.sources.prepared._MOST_IN_MEMORY", 0)


@pytest.mark.slow
@pytest.mark.usefixtures("on_disk")
def test_a_training_from_disk_equals_one_from_memory(run: Run, config: Config, tmp_path: Path) -> None:
    fed = fit(config, tmp_path / "run")
    assert isinstance(run_data(fed).train.x, OnDisk)
    assert_same_run(fed, run)
    assert json.loads((tmp_path / "run/test.json").read_text()) == json.loads((run.directory / "test.json").read_text())
    assert fed.data == run.data
    np.testing.assert_array_equal(fed.examples, run.examples)
    assert all(0 < record["data_wait"] < 1 for record in fed.metrics)


@pytest.mark.slow
@pytest.mark.usefixtures("on_disk", "without_pictures")
@pytest.mark.parametrize("last", [4, 12, 17], ids=["after a block", "after an epoch", "within a block"])
def test_an_interrupted_epoch_resumes_at_the_next_image(
    last: int, run: Run, config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The iterator starts at the step of the checkpoint, even if blocks have other boundaries than before."""
    with monkeypatch.context() as patch:
        interrupt_at(last, patch)
        patch.setattr("flax_vae.fitting.host_input._BLOCK_BYTES", 2 * 50 * (784 + 40))
        with pytest.raises(Interrupted):
            fit(config, tmp_path / "run")
    assert (tmp_path / "run/checkpoints" / str(last)).is_dir()
    assert_same_run(resume(tmp_path / "run"), run)


@pytest.mark.slow
@pytest.mark.usefixtures("on_disk", "without_pictures")
def test_evaluations_of_runs_from_disk_and_from_memory_are_equal(run: Run, config: Config, tmp_path: Path) -> None:
    """Except for elbo surgery, which compares all pairs of images, so that those on disk are restricted to a few."""
    fed = shutil.copytree(run.directory, tmp_path / "run")
    about = json.loads((fed / "config.json").read_text())
    (fed / "config.json").write_text(json.dumps(about | {"dataset": config.dataset}))
    plan = Plan(num_samples=(3,), num_images=40)
    found, expected = evaluate(fed, plan), evaluate(run.name, plan)
    assert (found.pop("surgery")["images"], expected.pop("surgery")["images"]) == (40, 100)
    assert found == expected


@pytest.mark.usefixtures("on_disk", "without_pictures")
@pytest.mark.parametrize(
    "part",
    [pytest.param({"prior": "vamp(components=7)"}, marks=pytest.mark.slow), {"binarize": "dynamic"}],
    ids=["vamp", "binarize"],
)
def test_parts_that_read_images_accept_images_on_disk_or_refuse_them(
    part: dict[str, Any], config: Config, tmp_path: Path
) -> None:
    own = replace(config, conditional=False, validation=0.0, epochs=1, **part)
    if "binarize" in part:
        with pytest.raises(UserError, match=r"`binarize` dynamic samples pixels in memory, but .* is too large"):
            fit(own, tmp_path / "run")
    else:
        run = fit(own, tmp_path / "run")
        assert sample_gmm(run.model, run.params, run_data(run).train.x[:50], jax.random.key(0), 3).shape[0] == 3


@pytest.mark.usefixtures("on_disk")
def test_images_of_several_members_must_fit_on_the_device(config: Config, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"do not fit on the device.*train one at a time"):
        fit_many([config, replace(config, seed=1)], tmp_path / "runs")


@pytest.mark.usefixtures("on_disk")
def test_damaged_images_end_a_training_in_one_line(config: Config, prepared: Path, tmp_path: Path) -> None:
    """They are refused when they are first read, since nothing reads all images before."""
    damaged = shutil.copytree(prepared, tmp_path / "damaged")
    path = damaged / "train-00001.array_record"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"damaged: damaged \(.*hash mismatch.*prepare or download it again"):
        fit(replace(config, dataset=str(damaged)), tmp_path / "run")
