"""Documentation: code runs, commands parse, every objective has a section and every preset a row."""

import re
import shlex
from pathlib import Path

import jax
import numpy as np
import pytest
import tyro

from flax_vae import Config, fit, init_state, make_optimizer, make_train_step, tutorial_dense
from flax_vae.cli.main import _COMMANDS
from flax_vae.cli.train import Train
from flax_vae.objectives import OBJECTIVES
from flax_vae.presets import PRESETS

ROOT = Path(__file__).parents[1]
PAGES = {path.name: path.read_text() for path in (ROOT / "README.md", *sorted(ROOT.glob("docs/*.md")))}
COMMANDS = {f"flax-vae {name}": command for name, command in _COMMANDS.items()}


@pytest.mark.slow
@pytest.mark.usefixtures("without_pictures")
def test_tour(few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the page from top to bottom as one script, on a smaller data set."""
    monkeypatch.chdir(tmp_path)
    script = "\n".join(re.findall(r"```python\n(.*?)```", PAGES["tour.md"], re.DOTALL))
    shown = script.replace('load_images("fashion_mnist"', f"load_images({str(few_images)!r}")
    shown = shown.replace("Config(", f"Config(dataset={str(few_images)!r}, ")
    found: dict = {}
    exec(shown, found)
    assert found["new"].shape == found["more"].shape == (10, 28, 28, 1)
    assert found["run"].config.objective == "elbo(beta=2.0)"


@pytest.mark.usefixtures("without_pictures")
def test_sampling(few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the script on a small run."""
    monkeypatch.chdir(tmp_path)
    fit(Config(preset="tutorial_dense", dataset=str(few_images), epochs=1), "runs/latest")
    (script,) = re.findall(r"```python\n(.*?)```", PAGES["sampling.md"], re.DOTALL)
    found: dict = {}
    exec(script, found)
    np.testing.assert_array_equal(found["same"], found["images"])
    assert found["again"].shape == (64, 28, 28, 1)
    assert found["means"].shape == (64, 2)
    assert found["way"].shape == (8, 28, 28, 1)
    assert found["plane"].shape == (30, 30, 28, 28, 1)


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.slow
def test_own_parts(few_images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the network and the objective of the page, which belong to different files."""
    monkeypatch.chdir(tmp_path)
    network, objective = re.findall(r"```python\n(.*?)```", PAGES["own.md"], re.DOTALL)
    own: dict = {}
    exec(objective, own)
    found: dict = {}
    exec(network.replace("Config(epochs=2)", f"Config(epochs=1, dataset={str(few_images)!r})"), found)
    run = fit(found["run"].config, tmp_path / "own", model=found["model"], objective=own["squared_rate"])
    assert run.metrics[-1]["train_loss"] > run.metrics[-1]["train_distortion"]


@pytest.mark.slow
def test_compression() -> None:
    (script,) = re.findall(r"```python\n(.*?)```", PAGES["compression.md"], re.DOTALL)
    found: dict = {}
    exec(script, found)
    assert (found["restored"] == found["images"]).all()


@pytest.mark.usefixtures("without_pictures")
@pytest.mark.quick(1)
@pytest.mark.parametrize("section", ["Several views of an example", "Batches from an iterable"])
def test_recipes_of_own_data(section: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Run the script of a section, on few examples."""
    monkeypatch.chdir(tmp_path)
    text = PAGES["recipes.md"].partition(f"## {section}\n")[2].partition("\n## ")[0]
    (script,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    rng = np.random.default_rng(0)
    images, rows = rng.integers(0, 256, (40, 28, 28, 1), np.uint8), rng.normal(size=(40, 5))
    found: dict = {"images": images, "rows": rows, "test_images": images[:9]}
    script = script.replace("Config(epochs=20)", "Config(epochs=1, batch_size=9, min_steps=0)")
    exec(script.replace("batch(128)", "batch(4)").replace("=1000", "=2").replace("epochs=40", "epochs=2"), found)
    assert found["run"].step > 0


def test_an_objective_with_parameters() -> None:
    (script,) = re.findall(r"```python\n(.*?)```", PAGES["objectives.md"], re.DOTALL)
    found: dict = {}
    exec(script, found)
    model, tx, objective = (
        tutorial_dense((4, 4, 1), 2, features=(8,)),
        make_optimizer("adam", 1e-3, 10),
        found["Adversarial"](),
    )
    state = init_state(model, tx, jax.random.key(0), (4, 4, 1), objective=objective)
    _, metrics = make_train_step(model, objective, tx)(state, np.zeros((8, 4, 4, 1), np.uint8))
    assert metrics["objective_loss"] > 0 == metrics["skipped"]


@pytest.mark.parametrize("name", PAGES)
def test_commands_parse(name: str) -> None:
    """Parse the flags, and check the values of settings that need no data. Sentences may name a command alone."""
    page = PAGES[name].replace(" \\\n", " ")
    inline = [words for words in re.findall(r"`(flax-vae [^`]*)`", page) if words not in COMMANDS and "|" not in words]
    for line in re.findall(r"^    (.*)", page, re.MULTILINE) + inline:
        assert not line.startswith("flax-vae ") or line.split()[1] in _COMMANDS or line.split()[1].startswith("--")
        for start, command in COMMANDS.items():
            if line.startswith(start) and "--help" not in line:
                args = [word for word in shlex.split(line.removeprefix(start), comments=True) if word != "..."]
                parsed = tyro.cli(command, args=args, config=(tyro.conf.DisallowNone,))
                if command is Train and "--resume" not in args:
                    assert all(Config(**settings).epochs > 0 for settings in parsed.settings())


def test_public_names_suffice() -> None:
    """The pages, the notebook and the examples import from `flax_vae` itself, never from its modules."""
    texts = [*PAGES.values(), (ROOT / "docs" / "notebook.ipynb").read_text()]
    texts += [path.read_text() for path in ROOT.glob("examples/*.py")]
    assert not [line for text in texts for line in re.findall(r"(?:from|import) flax_vae\..*", text)]


def test_every_objective_has_a_section() -> None:
    """The section lists the hyperparameters and their defaults."""
    text = PAGES["objectives.md"]
    sections = dict(re.findall(r"^## `(\w+)`\n(.*?)(?=^## )", text, re.MULTILINE | re.DOTALL))
    assert sections.keys() == set(OBJECTIVES)
    for name, section in sections.items():
        assert r"$$\mathrm{loss} = " in section
        for parameter, of in OBJECTIVES.hyperparameters(name).items():
            assert f"- `{parameter}` ({of.default!r})" in section, (name, parameter)


def test_every_preset_has_a_row() -> None:
    for name in PRESETS:
        assert f"| `{name}` | `flax-vae train" in PAGES["recipes.md"]
