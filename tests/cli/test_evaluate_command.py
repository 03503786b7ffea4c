"""`flax-vae evaluate` and `flax-vae compare` as a user runs them."""

import csv
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from flax_vae import load_run, log_likelihood
from flax_vae.cli.main import main


@pytest.mark.slow
def test_evaluate_and_compare(
    trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Figures are consistent and survive an interruption; two runs are compared in a table and a picture."""
    copy = shutil.copytree(trained[0], tmp_path / "copy")
    command = ["evaluate", str(copy), "--num-samples", "5", "50", "--num-images", "20"]
    assert main([*command, "--csv", str(tmp_path / "table.csv")]) == 0
    shown = capsys.readouterr().out
    record = json.loads((copy / "evaluation.json").read_text())
    with (tmp_path / "table.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert all(row["figure"] for row in rows)
    assert record["elbo"]["elbo"] in [float(row["value"] or 0) for row in rows]
    assert f"{record['elbo']['elbo']:.2f}" in shown
    assert record["bits_per_dim"] is None
    assert "IW bound, 50 samples" in shown
    assert "cross-entropy of grey values" in shown
    assert "log p(x)" not in shown
    few, many = record["importance_weighted"]
    assert few["log_likelihood"] < many["log_likelihood"]
    assert f"loose for {many['images_of_high_pareto_k']} of 20 images" in " ".join(shown.split())
    surgery = record["surgery"]["mutual_information"] + record["surgery"]["marginal_kl"]
    np.testing.assert_allclose(surgery, record["elbo"]["rate"], rtol=0.1)
    assert 0.2 < record["accuracy"]["linear"] <= 1
    assert 0 < record["frechet"]["floor"] < record["frechet"]["distance"]
    assert record["frechet"]["accuracy"] > 0.4
    assert f"{record['frechet']['distance']:.2f}" in shown
    for name in ("evaluation", "extremes"):
        with Image.open(copy / "pictures" / f"{name}.png") as image:
            assert min(image.size) > 100
    last = load_run(copy).metrics[-1]
    np.testing.assert_allclose(-record["elbo"]["elbo"], last["test_loss"], rtol=0.01)
    (copy / "evaluation.json").rename(tmp_path / "first.json")
    assert json.loads(_interrupted([*command, "--json"], tmp_path / "figures.json", monkeypatch)) == record
    assert (copy / "evaluation.json").read_bytes() == (tmp_path / "first.json").read_bytes()
    capsys.readouterr()
    assert main(["compare", str(copy), str(trained[0]), "--out", str(tmp_path / "both.png")]) == 0
    shown = capsys.readouterr()
    assert f"{many['log_likelihood']:.2f}" in shown.out
    assert f"Not evaluated: {trained[0]}." in shown.err
    with Image.open(tmp_path / "both.png") as image:
        assert min(image.size) > 100
    with (copy / "metrics.jsonl").open("a") as file:  # a better epoch follows
        file.write(json.dumps(last | {"step": last["step"] + 1, "test_loss": 0.0}) + "\n")
    assert main(["compare", str(copy), "--out", str(tmp_path / "both.png"), "--overwrite"]) == 0
    assert f"Not evaluated: {copy}." in capsys.readouterr().err


def _interrupted(command: list[str], figures: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """Return the figures of an evaluation that is interrupted at the second of two bounds and resumes with that one.

    Another version of the package, interrupted in between, starts from the first.
    """
    measured: list[int] = []

    def interrupted(*args: Any) -> Any:
        measured.append(args[4])
        if len(measured) in (2, 3):
            raise KeyboardInterrupt
        return log_likelihood(*args)

    monkeypatch.setattr("flax_vae.evaluation.subject.log_likelihood", interrupted)
    assert main([*command, str(figures)]) == 130
    with monkeypatch.context() as other_version:
        other_version.setattr("flax_vae.evaluation.subject.__version__", "0.0.1")
        assert main([*command, str(figures)]) == 130
    assert not figures.exists()
    assert main([*command, str(figures)]) == 0
    assert measured == [5, 50, 5, 50, 5, 50]  # at the end, both once more for their spread
    assert [path.name for path in figures.parent.glob("figures*")] == ["figures.json"]
    return figures.read_text()


@pytest.mark.slow
def test_annealing_and_a_defence(trained: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = shutil.copytree(trained[0], tmp_path / "copy")
    method = ["--method", "ais", "--annealing-steps", "20", "--num-images", "5", "--defence", "2"]
    assert main(["evaluate", str(copy), "--num-samples", "500", *method]) == 0
    shown = capsys.readouterr().out
    record = json.loads((copy / "evaluation.json").read_text())
    assert record["defence"] == {"share": 0.2, "scale": 2.0}
    (bound,), annealed = record["importance_weighted"], record["annealed"]
    assert (annealed["num_steps"], annealed["num_samples"], annealed["images"]) == (20, 16, 5)
    errors = bound["standard_error_of_draws"] + annealed["standard_error_of_draws"]
    assert abs(annealed["log_likelihood"] - bound["log_likelihood"]) < 4 * errors + 0.1
    assert f"{annealed['log_likelihood']:.2f}" in shown
    assert "by the choice of the same 5 images" in " ".join(shown.split())


def test_errors_name_the_figures_that_are_not_finite(
    trained: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    run = load_run(shutil.copytree(trained[0], tmp_path / "copy"))
    run.params["decoder"]["Dense_0"]["bias"] = run.params["decoder"]["Dense_0"]["bias"].at[0].set(-np.inf)
    monkeypatch.setattr("flax_vae.evaluation.run.read_run", lambda *_, **__: run)
    assert main(["evaluate", str(run.directory), "--num-samples", "5", "--num-images", "20"]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert "elbo.elbo is -inf" in error or "elbo.elbo is nan" in error
    assert "importance_weighted.0.log_likelihood is" in error
    assert f"The parameters of step {run.step} are damaged, or the training diverged" in error
    assert not (run.directory / "evaluation.json").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "nowhere"], "nowhere is not a run directory"),
        (["evaluate", "RUN", "--num-samples", "1"], "--num-samples and --num-images must be at least 2"),
        (["evaluate", "RUN", "--protocol", "exemplar_vae", "--num-images", "9"], "exemplar_vae fixes --num-images"),
        (["evaluate", "RUN", "--binarize-seed", "1"], "--binarize-seed needs --binarize"),
        (["evaluate", "RUN", "--defence", "0.5"], "share between 0 and 1 and a scale greater than 1"),
        (["evaluate", "RUN", "--method", "ais", "--annealing-steps", "0"], "--annealing-steps must be at least 1"),
        (["compare", "RUN", "--out", "both.jpg"], "--out both.jpg: name a file that ends in .png"),
        (["evaluate", "RUN", "--json", "figures.txt"], "--json figures.txt: name a file that ends in .json"),
        (["compare", "nowhere"], "nowhere is not a run directory"),
    ],
)
def test_errors_are_one_line(
    arguments: list[str], message: str, trained: tuple[Path, str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(trained[0]) if word == "RUN" else word for word in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1
