"""Data sets of the user's own on the command line, from the training to the evaluation.

The kind of fault is a command that imports what a run names, or that needs a data set and does not take it.
"""

from pathlib import Path

import numpy as np
import pytest

from flax_vae import UserError, load_images, load_run
from flax_vae.cli.main import main

MODULE = """
import numpy as np
from flax_vae import Examples

def grey(count=40):
    return np.random.default_rng(0).integers(0, 256, (count, 8, 6), np.uint8)

def labelled(split, count=40):
    images = grey(count if split == "train" else 10)
    return Examples(images, (np.arange(len(images)) % 2).astype(np.int32), names=("even", "odd"))

def views():
    return {"image": grey(), "table": np.ones((40, 3))}

def nothing():
    return None
"""


@pytest.fixture(autouse=True)
def module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr("jax.config.update", lambda *_: None)  # JAX has fixed the devices of this process
    monkeypatch.setattr("flax_vae.fitting.fit.draw_pictures", lambda *_: None)
    Path("own_data.py").write_text(MODULE)


def test_a_source_returns_a_split_or_all_examples() -> None:
    """A tenth of all examples is held out; a split is taken as it is."""
    assert [load_images("own_data:grey(count=50)", split).x.shape for split in ("train", "test")] == [
        (45, 8, 6, 1),
        (5, 8, 6, 1),
    ]
    train, test = (load_images("own_data:labelled(count=30)", split) for split in ("train", "test"))
    assert [len(train), len(test)] == [30, 10]
    assert train.names == ("even", "odd")
    assert train.provenance["source"] == "`dataset` own_data:labelled(count=30)"
    assert load_images("own_data:grey", image_size=4).shape == (4, 4, 1)
    assert load_images("own_data:views").kind == "views"
    Path("own_data:grey").mkdir()
    with pytest.raises(UserError, match=r"no images|holds no"):
        load_images("own_data:grey")  # a folder of this name


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("own_data:gray", "`dataset` own_data:gray: .*own_data.py has no function or class gray"),
        ("no_data:grey", "`dataset` no_data:grey: no module no_data"),
        ("own_data:grey(size=3)", r"`dataset` own_data:grey\(size=3\): got an unexpected keyword argument 'size'"),
        ("own_data:nothing", r"`dataset` own_data:nothing: images of shape \(\)"),
    ],
)
def test_what_is_not_a_source_is_refused(name: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load_images(name)


@pytest.mark.slow
def test_commands_take_the_data_set_that_a_run_was_trained_on(capsys: pytest.CaptureFixture[str]) -> None:
    """No code that a run names is imported: what needs the data names the data set again."""
    name = "own_data:labelled(count=30)"
    words = ["--preset", "tutorial_dense(features=(8,))", "--min-steps", "0", "--batch-size", "10", "--epochs", "1"]
    assert main(["train", "--dataset", name, *words, "--out", "run"]) == 0
    capsys.readouterr()
    assert main(["train", "--resume", "run", "--epochs", "2"]) == 2
    assert f"run was trained on a data set of your own: pass --dataset '{name}'" in capsys.readouterr().err
    assert main(["train", "--resume", "run", "--epochs", "2", "--dataset", name]) == 0
    evaluate = ["evaluate", "run", "--num-samples", "3", "--num-images", "4"]
    assert main(evaluate) == 2
    assert f"pass --dataset '{name}'" in capsys.readouterr().err
    assert main([*evaluate, "--dataset", "own_data:labelled(count=31)"]) == 2
    assert "is not the data that run was trained on" in capsys.readouterr().err
    assert main([*evaluate, "--dataset", name]) == 0
    assert main(["sample", "run"]) == 0
    run = load_run("run")
    assert run.config.dataset == name
    with pytest.raises(UserError, match="pass `dataset`"):
        run.evaluate()
    np.testing.assert_array_equal(load_run("run", dataset=name).examples, run.examples)
