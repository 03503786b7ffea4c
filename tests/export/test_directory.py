"""Exported models as directories: what they hold does what the model does, and what is altered says so."""

import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

import flax_vae.export.directory
from flax_vae import Config, Run, UserError, bind, export_run, fit, load_run, verify_export
from flax_vae.export.formats import FORMATS

pytestmark = [pytest.mark.quick_compile, pytest.mark.usefixtures("without_pictures")]
FUNCTIONS = ("decoder", "encoder", "log_likelihood", "sampler")
BESIDE = ["README.md", "export.json", "reconstructions.png", "samples.png"]


@pytest.fixture(scope="module")
def run(few_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A conditional one, since that has most in it."""
    config = Config(preset="tutorial_dense", dataset=str(few_images), epochs=1, batch_size=50, conditional=True)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flax_vae.fitting.fit.draw_pictures", lambda *_: None)
        return fit(config, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("exported")
    return {name: export_run(run, name, folder / name) for name in (*FORMATS, "safetensors")}


@pytest.mark.parametrize("name", FORMATS)
def test_a_directory_holds_the_functions_and_says_what_they_are(name: str, exported: dict[str, Path], run: Run) -> None:
    folder, suffix = exported[name], FORMATS[name].suffix
    files = [function + suffix for function in FUNCTIONS]
    assert sorted(path.name for path in folder.iterdir()) == sorted(BESIDE + files)
    about = verify_export(folder)
    assert about["format"] == name
    assert about["class_names"] == list(run.class_names)
    assert about["data"] == run.data
    assert about["config"]["data_dir"] is None
    assert {"flax_vae", "jax"} <= about["versions"].keys()
    assert about["platforms"] == (["cpu", "cuda", "tpu"] if name == "stablehlo" else None)
    assert set(about["files"]) == {path.name for path in folder.iterdir()} - {"export.json"}
    signature = about["files"][f"sampler{suffix}"]
    assert [(each["name"], each["shape"]) for each in signature["arguments"]] == [
        ("noise", ["b", 2]),
        ("context", ["b", 10]),
    ]
    assert (signature["result"]["name"], signature["result"]["shape"]) == ("mean", ["b", 28, 28, 1])
    z, context = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32), run.contexts[:3]
    found = FORMATS[name].run((folder / f"decoder{suffix}").read_bytes())(z, context)
    np.testing.assert_allclose(found, bind(run.vae, run.params, context).decode(jax.numpy.asarray(z)).mean(), atol=1e-6)
    for picture in ("samples.png", "reconstructions.png"):
        with Image.open(folder / picture) as image:
            assert image.width > image.height


def test_parameters_open_as_the_model(exported: dict[str, Path], run: Run) -> None:
    folder = exported["safetensors"]
    assert sorted(path.name for path in folder.iterdir()) == sorted([*BESIDE, "model.json", "model.safetensors"])
    verify_export(folder)
    found = load_run(folder / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, found.params, run.params)
    assert found.config == run.config


@pytest.mark.parametrize("name", [*FORMATS, "safetensors"])
def test_the_card_is_one_that_the_hub_reads_and_its_code_runs(
    name: str, exported: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    card = ModelCard.load(exported[name] / "README.md")
    assert (card.data.license, card.data.library_name) == ("mit", "flax_vae")
    assert card.data.pipeline_tag == "unconditional-image-generation"
    assert name in card.data.tags
    assert card.data.eval_results is None
    assert "Not evaluated" in card.text
    assert str(Path.cwd()) not in card.content
    (snippet,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    monkeypatch.chdir(exported[name])
    found: dict[str, Any] = {}
    exec(snippet, found)
    assert found["images"].shape == (10, 28, 28, 1)
    for link in re.findall(r"!\[.*\]\((.*)\)", card.text):
        assert (exported[name] / link).exists()


def test_the_card_has_the_figures_of_an_evaluation(tmp_path: Path) -> None:
    run = load_run("pretrained:mlp")
    card = ModelCard.load(export_run(run, "safetensors", tmp_path / "card", "someone/mlp") / "README.md")
    figures = {result.metric_name: result.metric_value for result in card.data.eval_results}
    assert figures["ELBO, nats per image"] == run.evaluation["elbo"]["elbo"]
    (weighted,) = run.evaluation["importance_weighted"]
    name = f"Importance-weighted bound on log p(x), {weighted['num_samples']:,} samples, nats per image"
    assert figures[name] == weighted["log_likelihood"]
    assert f"| {name} | {weighted['log_likelihood']:.2f} |" in card.text
    assert card.data.model_name == "someone/mlp"
    assert 'load_run("hf://someone/mlp")' in card.text
    assert run.data["train"] in card.text


@pytest.mark.parametrize(
    ("harm", "message"),
    [
        (lambda folder: (folder / "sampler.onnx").unlink(), "sampler.onnx is missing"),
        (lambda folder: (folder / "encoder.onnx").write_bytes(b"other"), "encoder.onnx is not as it was exported"),
        (lambda folder: (folder / "README.md").write_text("---"), "README.md is not as it was exported"),
        (lambda folder: (folder / "export.json").unlink(), "export.json cannot be read"),
        (lambda folder: (folder / "export.json").write_text("[]"), "export.json cannot be read"),
        (lambda folder: (folder / "export.json").write_text("[" * 200_000), "export.json cannot be read"),
        (lambda folder: (folder / "export.json").write_text('{"schema": 9}'), "its schema is 9"),
    ],
)
def test_what_is_altered_or_missing_gets_one_line(
    harm: Callable[[Path], None], message: str, exported: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in exported["onnx"].iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    verify_export(folder)
    harm(folder)
    with pytest.raises(UserError, match=message) as error:
        verify_export(folder)
    assert "\n" not in str(error.value)


def test_an_export_that_fails_leaves_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(flax_vae.export.directory, "model_card", lambda *_: 1 / 0)
    for out in ("empty", "new", "in/new"):
        with pytest.raises(ZeroDivisionError):
            export_run(run, "safetensors", tmp_path / out)
    assert {path.name for path in tmp_path.rglob("*")} <= {"empty", "in"}
    monkeypatch.undo()
    assert export_run(run, "safetensors", tmp_path / "empty") == tmp_path / "empty"
    verify_export(tmp_path / "empty")


def test_what_is_there_is_never_overwritten(run: Run, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("kept")
    (tmp_path / "link").symlink_to("nowhere")
    for out, message in (
        ("", "is not empty: choose another directory."),
        ("notes.txt", "is not empty"),
        ("link", "is a link to something that does not exist"),
        ("notes.txt/below", "cannot be written: Not a directory"),
    ):
        with pytest.raises(UserError, match=re.escape(message)):
            export_run(run, "safetensors", tmp_path / out)
    assert sorted(os.listdir(tmp_path)) == ["link", "notes.txt"]
