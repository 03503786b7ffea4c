"""Exported directories compute what the model computes, and a modified file is detected."""

import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from huggingface_hub import ModelCard
from PIL import Image

import flax_vae
import flax_vae.export.directory
from flax_vae import Config, Run, UserError, bind, export_run, fit, load_run, verify_export, write_run
from flax_vae.export.formats import FORMATS
from flax_vae.export.function_files import FunctionFiles
from flax_vae.plots import save_image_grid

pytestmark = pytest.mark.usefixtures("without_pictures")
# The exporter to ONNX takes seconds to import.
every_format = pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == "onnx" else ()) for name in FORMATS]
)
FILES = {name: FORMATS.make(name).write for name in FORMATS}
FUNCTION_FILES = {name: files for name, files in FILES.items() if isinstance(files, FunctionFiles)}
FUNCTIONS = ("decoder", "encoder", "log_likelihood", "sampler")
Export = Callable[[str], Path]
BESIDE = ["README.md", "export.json", "reconstructions.png", "samples.png"]


@pytest.fixture(scope="module")
def run(few_images: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A conditional run, which exercises most of the export."""
    config = Config(
        preset="tutorial_dense(features=(8,))", dataset=str(few_images), epochs=1, batch_size=50, conditional=True
    )
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flax_vae.fitting.fit.draw_pictures", lambda *_: None)
        return fit(config, tmp_path_factory.mktemp("runs") / "run")


@pytest.fixture(scope="module")
def exported(run: Run, tmp_path_factory: pytest.TempPathFactory) -> Export:
    """Export the run in a format, once."""
    folder = tmp_path_factory.mktemp("exported")
    return cache(lambda name: export_run(run, name, folder / name))


@every_format
def test_export_json_describes_every_file(name: str, exported: Export, run: Run) -> None:
    folder = exported(name)
    about = verify_export(folder)
    assert about["format"] == name
    assert about["class_names"] == list(run.class_names)
    assert about["data"] == run.data
    assert about["config"]["data_dir"] is None
    assert {"flax_vae", "jax", *FORMATS.make(name).packages} <= about["versions"].keys()
    assert about["platforms"] == (["cpu", "cuda", "tpu"] if name == "stablehlo" else None)
    assert set(about["files"]) == {path.name for path in folder.iterdir()} - {"export.json"}
    for picture in ("samples.png", "reconstructions.png"):
        with Image.open(folder / picture) as image:
            assert image.width > image.height


@every_format
def test_no_file_names_a_folder_of_this_machine(name: str, exported: Export, run: Run) -> None:
    """Neither the folder of the data nor that of the package: exports are for others, and paths contain user names."""
    for path in exported(name).iterdir():
        for folder in (Path(run.config.dataset).parent, Path(flax_vae.__file__).parent):
            assert str(folder).encode() not in path.read_bytes(), path.name
    config = json.loads((exported(name) / "export.json").read_text())["config"]
    assert (config["dataset"], config["data_dir"]) == ("./few.npz", None)


@pytest.mark.quick(1)
@pytest.mark.parametrize("name", sorted(FUNCTION_FILES, key="onnx".__eq__))
def test_files_hold_the_functions_with_their_signatures(name: str, exported: Export, run: Run) -> None:
    folder, suffix = exported(name), FUNCTION_FILES[name].suffix
    files = [function + suffix for function in FUNCTIONS]
    assert sorted(path.name for path in folder.iterdir()) == sorted(BESIDE + files)
    signature = verify_export(folder)["files"][f"sampler{suffix}"]
    assert [(argument["name"], argument["shape"]) for argument in signature["arguments"]] == [
        ("noise", ["b", 2]),
        ("context", ["b", 10]),
    ]
    assert (signature["result"]["name"], signature["result"]["shape"]) == ("mean", ["b", 28, 28, 1])
    z, context = np.random.default_rng(0).normal(size=(3, 2)).astype(np.float32), run.contexts[:3]
    images = FUNCTION_FILES[name].run((folder / f"decoder{suffix}").read_bytes())(z, context)
    expected = bind(run.model, run.params, context).decode(jax.numpy.asarray(z)).mean()
    np.testing.assert_allclose(images, expected, atol=1e-6)


def test_a_tilde_is_the_home_of_the_user(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python functions expand `~` in every path; on the command line, the shell does."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    folder = export_run(run, "safetensors", "~/exported")
    verify_export("~/exported")
    assert load_run("~/exported/model.safetensors").step == load_run(write_run(run, "~/written")).step == run.step
    (tmp_path / "copy").symlink_to(run.directory)
    assert load_run("~/copy").step == run.step
    save_image_grid("~/grid.png", run.examples / 255, 8)
    with pytest.raises(UserError, match="is not empty"):
        fit(run.config, "~/exported")
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"copy", "exported", "grid.png", "written.json", "written.safetensors"}
    assert folder == tmp_path / "exported"


def test_parameters_open_as_the_model(exported: Export, run: Run) -> None:
    folder = exported("safetensors")
    assert sorted(path.name for path in folder.iterdir()) == sorted([*BESIDE, "model.json", "model.safetensors"])
    verify_export(folder)
    opened = load_run(folder / "model.safetensors")
    jax.tree.map(np.testing.assert_array_equal, opened.params, run.params)
    assert opened.config == replace(run.config, dataset="./few.npz")


@every_format
def test_the_hub_reads_the_card_and_its_code_runs(name: str, exported: Export, monkeypatch: pytest.MonkeyPatch) -> None:
    card = ModelCard.load(exported(name) / "README.md")
    assert (card.data.license, card.data.library_name) == ("mit", "flax_vae")
    assert card.data.pipeline_tag == "unconditional-image-generation"
    assert name in card.data.tags
    assert card.data.eval_results is None
    assert "Not evaluated" in card.text
    assert str(Path.cwd()) not in card.content
    (snippet,) = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    monkeypatch.chdir(exported(name))
    namespace: dict[str, Any] = {}
    exec(snippet, namespace)
    assert namespace["images"].shape == (10, 28, 28, 1)
    for link in re.findall(r"!\[.*\]\((.*)\)", card.text):
        assert (exported(name) / link).exists()


def test_an_unknown_format_is_refused(run: Run, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="Did you mean onnx"):
        export_run(run, "onx", tmp_path / "exported")
    assert not list(tmp_path.iterdir())


def test_the_card_lists_the_figures_of_an_evaluation(tmp_path: Path) -> None:
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
        (lambda folder: (folder / "sampler.stablehlo").unlink(), "sampler.stablehlo is missing"),
        (lambda folder: (folder / "encoder.stablehlo").write_bytes(b"other"), "encoder.stablehlo was modified"),
        (lambda folder: (folder / "README.md").write_text("---"), "README.md was modified"),
        (lambda folder: (folder / "export.json").unlink(), "export.json cannot be read"),
        (lambda folder: (folder / "export.json").write_text("[]"), "export.json cannot be read"),
        (lambda folder: (folder / "export.json").write_text("[" * 200_000), "export.json cannot be read"),
        (lambda folder: (folder / "export.json").write_text('{"schema": 9}'), "its schema is 9"),
    ],
)
def test_a_modified_or_missing_file_is_reported_in_one_line(
    harm: Callable[[Path], None], message: str, exported: Export, tmp_path: Path
) -> None:
    folder = tmp_path / "copy"
    folder.mkdir()
    for path in exported("stablehlo").iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    verify_export(folder)
    harm(folder)
    with pytest.raises(UserError, match=message) as error:
        verify_export(folder)
    assert "\n" not in str(error.value)


def test_a_failed_export_leaves_nothing(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "empty").mkdir()
    monkeypatch.setattr(flax_vae.export.directory, "model_card", lambda *_: 1 / 0)
    for out in ("empty", "new", "in/new"):
        with pytest.raises(ZeroDivisionError):
            export_run(run, "safetensors", tmp_path / out)
    assert {path.name for path in tmp_path.rglob("*")} <= {"empty", "in"}
    monkeypatch.undo()
    assert export_run(run, "safetensors", tmp_path / "empty") == tmp_path / "empty"
    verify_export(tmp_path / "empty")


def test_nothing_is_overwritten(run: Run, tmp_path: Path) -> None:
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
