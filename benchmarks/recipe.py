"""Is tutorial_conv's recipe (Muon, 1e-2, falling to 0) a trick of that one model? Against Adam at its best rate.

    peers/bin/python benchmarks/recipe.py

Each model trains on 6,000 images with the recipe, and with Adam at three rates under the same schedule and batch size;
the best of these is shown. Fashion-MNIST for the gated MLP and the residual network; for the tutorial's network
coloured 32x32x3 images, made of Fashion-MNIST: each garment in one random colour before a fade between two others.
Prints a table, writes recipe.json and recipe.png: test loss against epochs and against seconds.
"""

import json
import os
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import tyro
from rich.console import Console
from rich.table import Table

from flax_vae import RECIPES, Config, fit, load_images, use_machine
from flax_vae.system.machine import cpu_cores

HERE = Path(__file__).parent
Preset = Literal["gated_mlp", "residual_conv", "tutorial_conv"]
MODELS: dict[Preset, str] = {"gated_mlp": "28x28x1", "residual_conv": "28x28x1", "tutorial_conv": "32x32x3"}
COLOURS = {"muon": "tab:orange", "adam": "tab:blue"}


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    train_images: int = 6_000
    test_images: int = 5_000
    epochs: int = 3
    adam_rates: tuple[float, ...] = (2e-3, 4e-3, 8e-3)


def coloured(images: np.ndarray, seed: int) -> np.ndarray:
    """Grey images "n 28 28 1" as coloured ones "n 32 32 3"."""
    random = np.random.default_rng(seed)
    shade = np.pad(images / np.float32(255), ((0, 0), (2, 2), (2, 2), (0, 0)))
    colour, top, bottom = random.random((3, len(images), 1, 1, 3), dtype=np.float32)
    down = np.linspace(0, 1, 32, dtype=np.float32)[:, None, None]
    background = top * (1 - down) + bottom * down
    return np.round(255 * (shade * colour + (1 - shade) * background)).astype(np.uint8)


def write_data(folder: Path, arguments: Arguments) -> dict[str, str]:
    """A file of images for each shape."""
    train = load_images("fashion_mnist", "train").x[: arguments.train_images]
    test = load_images("fashion_mnist", "test").x[: arguments.test_images]
    np.savez(folder / "grey.npz", x_train=train, x_test=test)
    np.savez(folder / "coloured.npz", x_train=coloured(train, 0), x_test=coloured(test, 1))
    return {"28x28x1": str(folder / "grey.npz"), "32x32x3": str(folder / "coloured.npz")}


def curve(config: Config, out: Path) -> dict[str, Any]:
    """Test loss after each epoch, and the seconds until then."""
    metrics = fit(config, out).metrics
    losses, seconds = ([each[name] for each in metrics] for name in ("test_loss", "seconds"))
    return {"learning_rate": config.learning_rate, "test_loss": losses, "seconds": seconds}


def draw(found: dict[Preset, dict[str, dict[str, Any]]], path: Path) -> None:
    """Loss against epochs above, against seconds below."""
    figure, axes = plt.subplots(2, len(found), figsize=(4 * len(found), 6), sharey="col", layout="constrained")
    for column, (model, curves) in zip(axes.T, found.items(), strict=True):
        for name, result in curves.items():
            losses, label = result["test_loss"], f"{name} {result['learning_rate']:g}"
            column[0].plot(range(1, len(losses) + 1), losses, "o-", color=COLOURS[name], label=label)
            column[1].plot(result["seconds"], losses, "o-", color=COLOURS[name])
        column[0].set(title=f"{model}, {MODELS[model]}", xlabel="epochs")
        column[1].set(xlabel="seconds")
        column[0].legend()
    for row in axes:
        row[0].set_ylabel("test loss, nats per image")
    figure.savefig(path, dpi=120)


def main(arguments: Arguments) -> None:
    """Measure, print and write."""
    matplotlib.use("Agg")
    use_machine(cpu_cores())
    recipe = RECIPES["tutorial_conv"]
    found: dict[Preset, dict[str, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as name:
        data = write_data(Path(name), arguments)
        for model, shape in MODELS.items():
            own = RECIPES[model].microbatch_size
            config = replace(recipe, preset=model, dataset=data[shape], epochs=arguments.epochs, latent_dim=16,
                             microbatch_size=own, devices=None if own else 1)  # fmt: skip
            configs = [config] + [replace(config, optimizer="adam", learning_rate=r) for r in arguments.adam_rates]
            found[model] = {}
            for number, each in enumerate(configs):
                result = curve(each, Path(name) / model / str(number))
                best = found[model].get(each.optimizer)
                if best is None or result["test_loss"][-1] < best["test_loss"][-1]:
                    found[model][each.optimizer] = result
    table = Table("model", "images", "optimiser", "rate", "test loss", "seconds")
    for model, curves in found.items():
        for name, result in curves.items():
            numbers = f"{result['learning_rate']:g}", f"{result['test_loss'][-1]:.2f}", f"{result['seconds'][-1]:.0f}"
            table.add_row(model, MODELS[model], name, *numbers)
    Console().print(table)
    report = {"date": time.strftime("%Y-%m-%d"), "cores": os.cpu_count(), "arguments": vars(arguments), "curves": found}
    (HERE / "recipe.json").write_text(json.dumps(report, indent=1) + "\n")
    draw(found, HERE / "recipe.png")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
