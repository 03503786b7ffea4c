"""`flax-vae explore` on the command line."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest

from flax_vae import Config, init, load_run
from flax_vae.cli.main import main
from flax_vae.explore.write import about
from flax_vae.runs.models import make_model


def content_of(path: Path) -> dict:
    return json.loads(path.read_text().split('id="content">')[1].split("</script>")[0])


def test_a_run_becomes_one_small_file(
    trained: tuple[Path, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The page holds the run's name, parts and metrics, and all test images."""
    out = tmp_path / "a.html"
    assert main(["explore", str(trained[0]), "--out", str(out)]) == 0
    assert capsys.readouterr().out == f"{out}\n"
    text, content = out.read_text(), content_of(out)
    assert f"<h1>{trained[0].name}</h1>" in text
    assert "<dt>preset</dt><dd>tutorial_dense</dd>" in text
    assert f"<dd>{load_run(trained[0]).metrics[-1]['test_loss']:.2f}</dd>" in text
    assert len(content["labels"]) == 100
    assert content["classes"] == [str(i) for i in range(10)]
    assert len(text) < 1e6
    first = out.read_bytes()
    assert main(["explore", str(trained[0]), "--out", str(out), "--overwrite"]) == 0
    assert out.read_bytes() == first


@pytest.mark.slow
def test_the_texts_of_a_page_describe_the_run(trained: tuple[Path, str]) -> None:
    run = load_run(trained[0])
    texts = about(run, "few")
    assert texts.summary == "A variational autoencoder of few with 2 latent dimensions."
    assert texts.facts["step"] == f"{run.step:,}"
    assert {"test loss", "test rate", "test distortion"} <= texts.facts.keys()
    config = Config(preset="tutorial_dense", latent_dim=1, levels=3, conditional=True)
    model = make_model(config, run.examples.shape[1:])
    params = init(model, jax.random.key(0), run.examples.shape[1:], 3)
    other = replace(
        run, name="pretrained:x", config=config, model=model, params=params, metrics=[{}], class_names=("a", "b", "c")
    )
    texts = about(other, "few")
    assert texts.title == "x"
    assert texts.summary.endswith(" of few with 1 latent dimension in each of 3 layers given the class.")
    assert "test loss" not in texts.facts


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["absent"], "absent is not a run directory"),
        (["pretrained:nothing"], "No pretrained model is called 'nothing'"),
        (["RUN", "-o", "a.png"], "ends in .html"),
        (["RUN", "-o", "absent/a.html"], "not a directory to write a.html to"),
        (["MOVED"], "is not the data that"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_two(
    arguments: list[str],
    message: str,
    trained: tuple[Path, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.chdir(home)
    words = {"RUN": str(trained[0]), "MOVED": str(tmp_path / "moved")}
    if "MOVED" in arguments:  # its images have changed
        moved = shutil.copytree(trained[0], words["MOVED"])
        config = json.loads((Path(moved) / "config.json").read_text())
        images = np.random.default_rng(0).integers(0, 256, (30, 28, 28, 1), np.uint8)
        np.save(tmp_path / "other.npy", images)
        (Path(moved) / "config.json").write_text(json.dumps(config | {"dataset": str(tmp_path / "other.npy")}))
    assert main(["explore", *(words.get(word, word) for word in arguments)]) == 2
    err = capsys.readouterr().err
    assert err.count("\n") == 1
    assert message in err
    assert not list(home.iterdir())
