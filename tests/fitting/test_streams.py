"""Runs on batches from an iterable, a generator function or a Grain data set.

The kind of fault is a training that sees other batches than the stream gives, after a resumption or between threads.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import count
from pathlib import Path
from typing import Any

import grain
import jax
import numpy as np
import pytest
from interruptions import interrupt_at
from run_directories import assert_same_run, untimed

from flax_vae import (
    Batch,
    Config,
    Examples,
    NormalLikelihood,
    Plan,
    Stream,
    UserError,
    fit,
    fit_many,
    load_run,
    resume,
    resume_many,
)
from flax_vae import tutorial_dense as dense
from flax_vae.batches import epoch_batches
from flax_vae.evaluation.samples import Request, new_images
from flax_vae.fitting.ensemble import Ensemble
from flax_vae.fitting.loop import Interrupted
from flax_vae.runs.data import read_given

pytestmark = pytest.mark.usefixtures("without_pictures")
X = np.random.default_rng(0).normal(size=(60, 5)).astype(np.float32)
HELD_OUT = X[:7]
LABELS = np.arange(60, dtype=np.int32)
NAMES = tuple(map(str, LABELS))
CONFIG = Config(epochs=3, learning_rate=1e-2)
OWN = {"model": dense((5,), features=(8,), likelihood=NormalLikelihood())}


def of_grain() -> Any:
    """Return shuffled batches without an end."""
    return grain.MapDataset.source(X).seed(0).shuffle().repeat().batch(10).to_iter_dataset()


def one_pass_of_grain() -> Any:
    """Return batches of one pass, the last of which is smaller, as an epoch."""
    return grain.MapDataset.source(X[:55]).seed(0).shuffle().batch(10)


def data_loader() -> Any:
    """Return Grain's loader, whose states are bytes."""
    sampler = grain.samplers.IndexSampler(len(X), shard_options=grain.sharding.NoSharding(), shuffle=True, seed=0)
    return grain.DataLoader(data_source=X, sampler=sampler, operations=[grain.transforms.Batch(10)])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("make", "steps"),
    [
        (of_grain, 6),
        (one_pass_of_grain, None),
        (data_loader, 4),
    ],
)
def test_a_training_on_grain_resumes_bit_for_bit(
    make: Callable[[], Any], steps: int | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The place in the stream is that of the last step, not of the last batch that was read ahead."""
    stream = Stream(make(), steps, HELD_OUT)
    run = fit(CONFIG, tmp_path / "whole", data=stream, **OWN)
    path = tmp_path / "broken"
    with monkeypatch.context() as patch:
        interrupt_at(8, patch)
        with pytest.raises(Interrupted, match=r"Resume with: flax_vae.resume\(.*broken', model=..., data=...\)"):
            fit(CONFIG, path, data=stream, **OWN)
    with pytest.raises(UserError, match=r"was trained on a stream of .*: pass it as `data`"):
        resume(path, **OWN)
    with pytest.raises(UserError, match=r"is not the data that .*broken was trained on"):
        resume(path, data=Stream([Batch(X[:10] + 1)], 3), **OWN)
    assert_same_run(resume(path, data=Stream(make(), steps), **OWN), run)
    assert run.metrics[-1]["step"] == 3 * (steps or 6)


def epochs_of_arrays(x: np.ndarray, seed: int) -> Iterator[np.ndarray]:
    for epoch in count():
        yield from epoch_batches(x, 10, seed, epoch)


@pytest.mark.slow
def test_a_stream_of_the_same_batches_is_the_same_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """However the batches are cut into blocks and dispatches, the steps are compiled once."""
    in_memory = fit(replace(CONFIG, batch_size=10, min_steps=0), tmp_path / "arrays", data=X, **OWN)
    train, test = (part["x"] for part in _split())
    sizes = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flax_vae.fitting.host_input._SECONDS_PER_BLOCK", 0.0)  # one batch in each block
        patch.setattr("flax_vae.fitting.fit.draw_pictures", lambda *_: None)
        advance = Ensemble.advance

        def advance_and_count(self: Ensemble, *arguments: Any) -> None:
            advance(self, *arguments)
            sizes.append(self.steps.func._cache_size())

        patch.setattr(Ensemble, "advance", advance_and_count)
        stream = Stream(lambda: epochs_of_arrays(train, CONFIG.seed), 5, test)
        run = fit(CONFIG, tmp_path / "stream", data=stream, **OWN)
    assert_same_run(run, in_memory)
    assert sizes == [1] * 16
    err = capsys.readouterr().err
    assert "Data:      batches of 10 + 6 test vectors of 5\n           5 batches of <lambda> are an epoch\n" in err
    assert "this training cannot be resumed" in err


@pytest.mark.slow
def test_labels_of_a_stream_condition_a_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As those in memory do, also if the first batch lacks a class; the run knows its classes, and is resumed."""
    labels = LABELS % 3
    labels[:10] = 0  # the first batch
    batches = [Batch(X[i : i + 10], np.eye(3)[labels[i : i + 10]]) for i in range(0, 60, 10)]
    rows = grain.MapDataset.source(range(60)).batch(10).map(lambda which: batches[which[0] // 10])
    stream, config = Stream(rows, held_out=Examples(X[:7], labels[:7])), replace(CONFIG, conditional=True)
    run = fit(config, tmp_path / "whole", data=stream, **OWN)
    assert run.class_names == ("0", "1", "2")
    with monkeypatch.context() as patch:
        interrupt_at(8, patch)
        with pytest.raises(Interrupted):
            fit(config, tmp_path / "broken", data=stream, **OWN)
    assert_same_run(resume(tmp_path / "broken", data=stream, **OWN), run)
    assert np.isfinite(run.evaluate(Plan(num_samples=(3,), num_images=4))["elbo"]["elbo"])
    assert not np.array_equal(run.sample(1, labels=1), run.sample(1, labels=2))


def test_several_processes_are_refused_before_anything_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each would have to read a part of every batch, and to store its own place in the stream."""
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    with pytest.raises(UserError, match="`data` is a stream, which several processes cannot share: train in one"):
        read_given(lambda: pytest.fail("a batch is read"), None, CONFIG)


def _split() -> list[dict[str, np.ndarray]]:
    from flax_vae.data import from_arrays

    return [vars(part) for part in from_arrays(X)]


ITERABLES = {
    "a list": [Batch(X[:10]), Batch(X[10:20])],
    "a function": lambda: (X[i : i + 10] for i in range(0, 55, 10)),
}


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ITERABLES)
def test_an_iterable_trains_without_held_out_examples(
    name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The start says what is left out, and what cannot be done is refused later on."""
    batches = ITERABLES[name]
    run = fit(CONFIG, tmp_path / "run", data=batches if name == "a list" else Stream(batches, 2), **OWN)
    out, err = capsys.readouterr()
    assert "`data` is a plain iterable, whose position cannot be saved: this training cannot be resumed." in err
    assert "No held-out examples: nothing is evaluated, and the best checkpoint is that of the lowest" in err
    assert "test" not in out
    assert [record["step"] for record in run.metrics] == [2, 4, 6]
    assert run.step == min(run.metrics, key=lambda record: record["train_loss"])["step"]
    assert not [key for record in run.metrics for key in record if key.startswith("test")]
    np.testing.assert_array_equal(run.examples, X[:10])
    assert np.isfinite(run.log_likelihood(X, num_samples=3)[0]).all()
    assert "train loss" in repr(run)
    opened = load_run(run.directory, OWN["model"])
    np.testing.assert_array_equal(opened.sample(), run.sample())
    with pytest.raises(UserError, match="on a stream without held-out examples"):
        opened.evaluate()
    with pytest.raises(UserError, match=r"`sampler` gmm needs the training images, but .* was trained on a stream"):
        new_images(opened, Request(), "gmm")
    with pytest.raises(UserError, match=r"Its stream cannot be resumed: start from the run by fit\(init=load_run\("):
        resume(run.directory, data=batches, epochs=4, **OWN)
    assert fit(CONFIG, tmp_path / "next", data=ITERABLES["a list"], init=opened, **OWN).step


@pytest.mark.slow
def test_an_ensemble_on_a_plain_iterable_names_a_member_to_start_from(tmp_path: Path) -> None:
    first, _ = fit_many([replace(CONFIG, seed=seed) for seed in (0, 1)], tmp_path, data=ITERABLES["a list"], **OWN)
    with pytest.raises(UserError, match="Its stream cannot be resumed") as error:
        resume_many(tmp_path, data=ITERABLES["a list"], epochs=4, **OWN)
    assert f"load_run({str(first.directory)!r})" in str(error.value)


@pytest.mark.slow
def test_held_out_examples_are_evaluated(tmp_path: Path) -> None:
    run = fit(CONFIG, tmp_path / "run", data=Stream([Batch(X[:10])], held_out=X[10:]), **OWN)
    record = run.evaluate(Plan(num_samples=(3,), num_images=4))
    assert record["images"] == 50
    assert json.loads((tmp_path / "run" / "provenance.json").read_text())["stream"] == {
        "of": "list",
        "is_resumable": False,
        "is_held_out": True,
    }


@pytest.mark.slow
def test_members_of_an_ensemble_see_the_same_batches(tmp_path: Path) -> None:
    configs = [replace(CONFIG, seed=seed) for seed in (0, 1)]
    first, second = fit_many(configs, tmp_path / "runs", data=Stream(of_grain(), 6, HELD_OUT), **OWN)
    alone = fit(configs[1], tmp_path / "alone", data=Stream(of_grain(), 6, HELD_OUT), **OWN)
    assert untimed(second.metrics) == untimed(alone.metrics) != untimed(first.metrics)


@pytest.mark.slow
def test_masks_of_a_stream_are_used(tmp_path: Path) -> None:
    """The loss does not depend on missing values, not even on NaN."""
    mask = np.random.default_rng(1).random((10, 5)) > 0.4
    runs = [
        fit(
            CONFIG,
            tmp_path / str(fill),
            data=[Batch(np.where(mask, X[:10], fill).astype(np.float32), mask=mask)],
            **OWN,
        )
        for fill in (7, np.nan)
    ]
    jax.tree.map(np.testing.assert_array_equal, runs[0].params, runs[1].params)


@pytest.mark.slow
def test_images_in_batches_train_a_preset(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 4, 4, 1), np.uint8)
    run = fit(
        replace(CONFIG, preset="tutorial_dense(features=(8,))"), tmp_path / "run", data=Stream(lambda: [images], 1)
    )
    assert run.sample(3).shape == (3, 4, 4, 1)


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (iter([X[:10]]), r"`data` has no length: .* data=Stream\(batches, steps_per_epoch=1000\)"),
        (Stream([], 3), "`data` is a stream without batches"),
        (lambda: 3, "`data` has no length"),
        (Stream(lambda: 3, 3), "`data` is a function that returned a int: return an iterable"),
        (Stream([[X, X]]), r"a batch is a list; pass an array \(b, h, w, c\) or \(b, v\), a tuple or"),
        (Stream([X[0]]), r"a batch is of shape \(5,\); pass an array"),
        (
            Stream([Batch(X, np.ones((60, 2)))]),
            r"a batch of 60 examples has a context of shape \(60, 2\); pass the labels",
        ),
        (Stream([Batch(X, np.eye(2)[:1])]), "pass the labels as one-hot vectors"),
        (Stream([Batch(X, np.eye(60))]), r"have labels: pass Config\(conditional=True\), or yield x alone"),
        (Stream([Batch(X, np.eye(60))], held_out=Examples(X, LABELS, names=NAMES)), "held-out labels are names"),
        (Stream([np.ones((8, 4, 4, 1), np.uint8)]), "uint8 pixels are 0 and 1 only; multiply them by 255"),
        (Stream([np.full_like(X, np.nan)]), "vectors of NaN only"),
    ],
)
def test_what_is_not_a_stream_is_refused(data: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        fit(CONFIG, tmp_path / "run", data=data, **OWN)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("batches", "message"),
    [
        (iter([X[:10]] * 4), "`data` ended after 4 batches, and a second iteration yields none: pass a function"),
        (
            [X[:10], X[:20]],
            r"a batch has 20 examples of \(5,\), float32, but the first has 10 of \(5,\), float32; yield",
        ),
        ([X[:10], Batch(X[:10], mask=X[:10] > 0)], r"float32 with a mask, but the first has 10 of \(5,\), float32"),
        ([X[:10], np.full_like(X[:10], -np.inf)], "x holds float32 from -inf to -inf; pass finite floats"),
    ],
)
def test_a_stream_that_changes_ends_the_training(batches: Any, message: str, tmp_path: Path) -> None:
    """In one line, though another thread reads the stream."""
    with pytest.raises(UserError, match=message):
        fit(CONFIG, tmp_path / "run", data=Stream(batches, 5), **OWN)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"validation": 0.1}, "`validation` needs examples in memory, but `data` is a stream"),
        ({"image_size": 4}, "`image_size` needs"),
        ({"conditional": True}, "`conditional` requires labels"),
        ({"dataset": "sprites"}, "`dataset` sprites has no effect beside `data`"),
    ],
)
def test_settings_of_sets_in_memory_are_refused(settings: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        fit(replace(CONFIG, **settings), tmp_path / "run", data=[Batch(X)])
    with pytest.raises(UserError, match="`labels` needs examples in memory"):
        fit(CONFIG, tmp_path / "run", data=[Batch(X)], labels=[0])
