"""Files that commit 7b4c36f wrote open and give the same numbers: runs and exports.

`saved_by_7b4c36f/README.md` lists them. Machines round differently, so numbers are compared to a relative 1e-5.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from run_directories import assert_same_run, untimed
from saved_files import unpack_saved_files

from flax_vae import Run, decode, evaluate, load_run, resume, resume_many, sample, verify_export
from flax_vae.evaluation.evaluate import Plan
from flax_vae.export.formats.stablehlo import run_stablehlo

pytestmark = pytest.mark.usefixtures("without_pictures", "unchecked_types")

RUNS = ["plain", "hierarchy", "members/seed-0", "members/seed-1"]


@pytest.fixture(autouse=True)
def current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each test has a copy of the files in its current directory, where the configurations expect the data set."""
    unpack_saved_files(tmp_path)
    monkeypatch.chdir(tmp_path)


def assert_close(actual: Any, expected: Any, rtol: float = 1e-5, atol: float = 1e-5) -> None:
    """Compare two trees whose leaves are numbers, arrays or text."""
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for left, right in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        if isinstance(right, str):
            assert left == right
        else:
            np.testing.assert_allclose(left, right, rtol, atol)


def samples(run: Run) -> np.ndarray:
    context = None if run.contexts is None else run.contexts[:4]
    return np.asarray(sample(run.model, run.params, jax.random.key(0), 4, 1.0, context))


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", RUNS)
def test_a_run_gives_the_same_samples(name: str) -> None:
    assert_close(samples(load_run(name)), np.load("samples.npz")[name])


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", ["plain", "hierarchy"])
def test_a_finished_run_resumes_to_itself(name: str) -> None:
    before = load_run(name)
    assert_same_run(resume(name), before)


def test_a_finished_ensemble_resumes_to_itself() -> None:
    before = [load_run(name) for name in ("members/seed-0", "members/seed-1")]
    for resumed, expected in zip(resume_many("members"), before, strict=True):
        assert_same_run(resumed, expected)


@pytest.mark.slow
def test_a_run_without_its_last_epoch_resumes_to_the_same_end() -> None:
    before = load_run("plain")
    shutil.rmtree("plain/checkpoints/12")
    metrics = Path("plain/metrics.jsonl")
    metrics.write_text(metrics.read_text().splitlines(keepends=True)[0])
    resumed = resume("plain")
    assert_close(untimed(resumed.metrics), untimed(before.metrics), rtol=1e-4)
    assert_close(resumed.params, before.params, atol=1e-4)


@pytest.mark.quick(1)
@pytest.mark.parametrize("share", [0.25, 0.5])
def test_a_damaged_checkpoint_is_not_loaded(share: float, capsys: pytest.CaptureFixture[str]) -> None:
    """Orbax itself restores other numbers from a file with a flipped bit."""
    largest = max(Path("plain/checkpoints/12/params").rglob("d/*"), key=lambda path: path.stat().st_size)
    content = bytearray(largest.read_bytes())
    content[int(share * len(content))] ^= 1
    largest.write_bytes(content)
    assert load_run("plain").step == 6
    assert "checkpoint plain/checkpoints/12 is damaged" in capsys.readouterr().err


@pytest.mark.slow
def test_an_evaluation_measures_the_same() -> None:
    before = json.loads(Path("plain/evaluation.json").read_text())
    result = json.loads(json.dumps(evaluate("plain", Plan(num_samples=(10,), num_images=20))))
    for record in (before, result):
        del record["frechet"]  # tests train a smaller classifier
    for figures in (result["elbo"], *result["importance_weighted"]):
        del figures["standard_error_of_binarization"]
    for figures in (result["elbo"], result["importance_weighted"][0], before["importance_weighted"][0]):
        del figures["standard_error_of_draws"]  # by repetition now
    assert_close(result, before, rtol=1e-4)


@pytest.mark.parametrize("name", ["plain-safetensors", "plain-stablehlo", "plain-onnx", "hierarchy-safetensors"])
def test_an_export_is_intact(name: str) -> None:
    assert verify_export(f"shipped/{name}")["format"] == name.partition("-")[2]


@pytest.mark.parametrize("name", ["plain", "hierarchy"])
def test_exported_parameters_are_those_of_the_run(name: str) -> None:
    run = load_run(name)
    exported = load_run(f"shipped/{name}-safetensors/model.safetensors")
    assert exported.metrics == [record for record in run.metrics if record["step"] == run.step]
    assert exported.config == run.config
    jax.tree.map(np.testing.assert_array_equal, exported.params, run.params)


@pytest.mark.skipif(jax.__version_info__ < (0, 10), reason="JAX reads files of its own version and earlier ones")
def test_an_exported_function_computes_the_same() -> None:
    run, z = load_run("plain"), np.ones((3, 2), np.float32)
    decoder = run_stablehlo(Path("shipped/plain-stablehlo/decoder.stablehlo").read_bytes())
    assert_close(decoder(z), decode(run.model, run.params, z))
