"""The methods of a run: each equals the function that it calls."""

import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jax
import numpy as np
import pytest

from flax_vae import (
    Batch,
    Config,
    Plan,
    Run,
    UserError,
    decode,
    encode,
    fit,
    load_run,
    log_likelihood,
    reconstruct,
    sample,
)
from flax_vae.evaluation.figures import METRICS, in_order
from flax_vae.evaluation.samples import contexts_of
from flax_vae.runs.run import evaluation_of

pytestmark = pytest.mark.usefixtures("without_pictures")
KEY, OTHER = jax.random.key(3), jax.random.key(4)


@pytest.fixture(scope="module")
def run(few_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A conditional run."""
    config = Config(preset="tutorial_dense", dataset=str(few_images), epochs=1, batch_size=50, conditional=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flax_vae.fitting.fit.draw_pictures", lambda *_: None)
        return fit(config, tmp_path_factory.mktemp("runs") / "run")


Z = np.ones((4, 2), np.float32)
METHODS: dict[str, tuple[Callable[[Run], Any], Callable[[Run], Any]]] = {
    "sample by a seed": (
        lambda run: run.sample(4, 3),
        lambda run: sample(run.model, run.params, KEY, 4, 1.0, contexts_of(run, None, 4)),
    ),
    "sample of a class": (
        lambda run: run.sample(4, KEY, 0.5, labels="7", pixel_key=4),
        lambda run: sample(run.model, run.params, KEY, 4, 0.5, contexts_of(run, 7, 4), OTHER),
    ),
    "encode the examples": (
        lambda run: run.encode().mean(),
        lambda run: encode(run.model, run.params, Batch(run.examples, run.contexts)).mean(),
    ),
    "encode images": (
        lambda run: run.encode(run.examples[:4], [1, "2", 3, 3]).mean(),
        lambda run: encode(run.model, run.params, Batch(run.examples[:4], contexts_of(run, [1, 2, 3, 3], 4))).mean(),
    ),
    "decode": (
        lambda run: run.decode(Z, np.arange(4), pixel_key=4),
        lambda run: decode(run.model, run.params, Z, np.eye(4, 10, dtype=np.float32), OTHER),
    ),
    "reconstruct": (
        lambda run: run.reconstruct(key=3),
        lambda run: reconstruct(run.model, run.params, Batch(run.examples, run.contexts), KEY),
    ),
    "log_likelihood": (
        lambda run: run.log_likelihood(run.examples, 5, 3, run.labels),
        lambda run: log_likelihood(run.model, run.params, Batch(run.examples, run.contexts), KEY, 5),
    ),
}


@pytest.mark.quick(2)
@pytest.mark.parametrize("name", METHODS)
def test_a_method_equals_its_function(run: Run, name: str) -> None:
    method, function = (each(run) for each in METHODS[name])
    jax.tree.map(np.testing.assert_array_equal, method, function)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda run: run.encode(run.examples), "conditional: pass `labels`, a class for each image or one for all"),
        (lambda run: run.decode(Z), "conditional: pass `labels`"),
        (lambda run: run.sample(3, labels=[1, 2]), "`labels` has 2 classes for 3 images"),
        (lambda run: run.sample(3, labels="shoe"), "`labels` shoe: the classes are 0, 1, 2"),
        (lambda run: run.sample(3, labels=10), "`labels` 10: the classes are 0, 1, 2"),
        (lambda run: run.sample(3, -1), "`key` must be at least 0, not -1"),
        (lambda run: run.sample(3, key="a"), "`key` is a str: pass a seed, such as 0, or a key"),
        (lambda run: run.sample(-1), "`num_samples` is -1: pass a number of images"),
        (lambda run: run.sample(3, temperature=-1.0), "`temperature` must be greater than 0"),
        (lambda run: run.sample(3, temperature=np.nan), "`temperature` must be greater than 0"),
        (lambda run: run.encode(run.examples[0], labels=1), r"`x` has shape \(28, 28, 1\), .* takes \(n, 28, 28, 1\)"),
        (lambda run: run.encode(np.full((2, 28, 28, 1), np.nan), labels=1), "x holds float64 from nan"),
        (lambda run: run.decode(np.ones((4, 3)), labels=1), r"`z` has shape \(4, 3\), .* takes \(n, 2\)"),
        (lambda run: load_run("pretrained:mlp").sample(3, labels=1), "`labels` 1: the run is not conditional"),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_arguments_that_mean_nothing_are_refused(run: Run, call: Callable[[Run], Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        call(run)


@pytest.mark.slow
def test_a_run_in_memory_is_evaluated_and_summarised(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """The figures of the evaluation appear in the summary, beside every array of parameters and every metric."""
    before = run.summary()
    quick = [name for name in in_order() if name != "frechet" and "classes" not in METRICS.needs(name)]
    monkeypatch.setattr("flax_vae.evaluation.evaluate.in_order", lambda: quick)
    own = SimpleNamespace(brightness=lambda subject: subject.test.x.mean() / 255)
    monkeypatch.setitem(sys.modules, "own", own)
    record = run.evaluate(Plan(num_samples=(4,), num_images=10, metrics=("own:brightness",)))
    after = run.summary()
    assert f"{record['own:brightness']:.4g}" in after.removeprefix(before)
    assert after.startswith(f"{before}\n")
    assert f"{record['elbo']['rate']:.2f}" in after.removeprefix(before)
    assert before.startswith(f"{run!r}\n")
    for module in run.params:
        assert f"  {module}." in before
    assert f"{run.record['test_loss']:.6g}" in before
    assert load_run(run.directory).summary() == after.replace(repr(run), repr(load_run(run.directory)))


def test_the_figures_of_other_parameters_are_not_those_of_the_run(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """An evaluation, a summary and the files of a run describe its parameters, not others that replace them.

    The kind of fault is a result of other parameters under the name of the run, or in place of its own.
    """
    monkeypatch.setattr("flax_vae.evaluation.evaluate._measure_all", lambda subject: {"step": run.step})
    monkeypatch.setattr("flax_vae.evaluation.evaluate.draw_evaluation", lambda *_: None)
    run.evaluate(quick := Plan(num_samples=(2,), num_images=2))
    files = {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()}
    assert evaluation_of(run) == {"step": run.step}
    other = replace(run, params=jax.tree.map(lambda leaf: 2 * leaf, run.params))
    assert evaluation_of(other) is None
    other.evaluate(quick)
    assert files == {path: path.read_bytes() for path in run.directory.rglob("*") if path.is_file()}
