"""The rows of benchmarks/density/README.md: train, evaluate and write what came out to density.json.

    python benchmarks/density/rows.py --rows mlp

Each row is one `flax-vae train` and, for each seed, one `flax-vae evaluate`. Runs are kept in `--runs`: a row that was
interrupted, in training or evaluation, is resumed. Needs all of Fashion-MNIST.
"""

import json
import os
import platform
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import jax
import tyro

from flax_vae import load_run, write_run
from flax_vae.runs.run import PRETRAINED

HERE = Path(__file__).parent
BINARY = "--binarize dynamic --validation 0.16666667"  # 50,000 images to train on, 10,000 to choose the checkpoint
GATED = f"--preset gated_mlp --latent-dim 40 {BINARY}"
VAMP = "--prior vamp(components=500)"
FASTER = "--batch-size 250 --learning-rate 2e-3 --skip-norm 3000"
LADDER = (
    f"--preset ladder --latent-dim 16 --prior flow {BINARY} --batch-size 128 --skip-norm 3000 --kl-warmup-epochs 5 "
    "--optimizer muon --learning-rate 1e-2 --ema-decay 0.999"
)
GREY = "--validation 0.05"  # pixels in [0, 1]; 3,000 images to choose the checkpoint


class Row(NamedTuple):
    """What follows `flax-vae train`, and `flax-vae evaluate RUN`."""

    train: str
    evaluate: str = "--protocol exemplar_vae"


ROWS = {
    "mlp": Row(f"{GATED} --epochs 400 --kl-warmup-epochs 50 --batch-size 100 --learning-rate 1e-3 --seeds 3"),
    "mlp_vamp": Row(
        f"{GATED} {VAMP} --epochs 400 --kl-warmup-epochs 40 --batch-size 500 --learning-rate 3e-3 --skip-norm 3000"
    ),
    "hvae": Row(f"{GATED} --levels 2 --epochs 800 --kl-warmup-epochs 50 {FASTER}"),
    "hvae_vamp": Row(f"{GATED} --levels 2 {VAMP} --epochs 600 --kl-warmup-epochs 50 {FASTER}"),
    "ladder": Row(f"{LADDER} --posterior iaf --likelihood autoregressive(reach=7,features=24,hidden=192) --epochs 80"),
    "ladder_small": Row(f"{LADDER} --likelihood autoregressive(hidden=48) --epochs 45"),
    "grey": Row(
        f"--preset ladder(widths=(64,64),depths=(1,1),patch=4) --latent-dim 16 --prior flow {GREY} "
        "--likelihood autoregressive(head='logistic_mixture',hidden=48) --epochs 32 --kl-warmup-epochs 3 "
        "--batch-size 64 --optimizer muon --ema-decay 0.999",
        "--num-images 10000 --num-samples 100",
    ),
    "tutorial_conv": Row(f"--preset tutorial_conv {GREY} --epochs 30 --batch-size 64", "--num-samples 100"),
    "gated_mlp_2": Row(
        f"--preset gated_mlp(features=(400,400,400)) {GREY} --epochs 20 --batch-size 100 --optimizer muon "
        "--learning-rate 1e-2 --schedule linear",
        "--num-samples 100",
    ),
    "residual_conv_10": Row(
        f"--preset residual_conv --latent-dim 10 {GREY} --epochs 15 --batch-size 64", "--num-samples 100"
    ),
}


@dataclass(frozen=True)
class Arguments:
    """What to measure."""

    rows: tuple[str, ...] = tuple(ROWS)
    runs: Path = Path("runs/density")
    """Folder of the run directories."""
    out: Path = HERE / "density.json"
    pretrained: bool = False
    """Evaluate the models of these names that come with the package, instead of training them."""
    ship: bool = False
    """Write the seed with the least validation loss into the package, as `pretrained:ROW`."""


def call(*words: object) -> float:
    """Run a command of flax_vae, and return its seconds."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-m", "flax_vae", *map(str, words)], check=True)
    return time.perf_counter() - began


def train(name: str, directory: Path) -> list[Path]:
    """The run directory of each seed, trained or resumed where it is not finished."""
    if directory.exists():
        call("train", "--resume", directory)
    else:
        call("train", *ROWS[name].train.split(), "--out", directory)
    return sorted(directory.glob("seed-*")) or [directory]


def measure(where: str | Path, how: str, figures: Path) -> dict[str, Any]:
    """The figures of one seed."""
    seconds = call("evaluate", where, *how.split(), "--json", figures, "--overwrite")
    found, run = json.loads(figures.read_text()), load_run(where)
    return {
        "seed": run.config.seed,
        "parameters": sum(leaf.size for leaf in jax.tree.leaves(run.params)),
        "step": run.step,
        "epochs": run.config.epochs,
        "train_seconds": run.metrics[-1]["seconds"],
        "evaluate_seconds": seconds,
        "elbo": found["elbo"]["elbo"],
        "bound": found["importance_weighted"][-1],  # of the most draws
        "bits_per_dim": found["bits_per_dim"],
        "frechet": found["frechet"]["distance"],
        "accuracy": found["accuracy"],
        "data": run.data,
        "versions": {name: version(name) for name in ("flax_vae", "jax", "jaxlib", "flax", "optax", "numpy")},
    }


def ship(name: str, directories: list[Path]) -> None:
    """Write the run with the least validation loss as the package's model of this name."""
    runs = [load_run(directory) for directory in directories]
    best = min(runs, key=lambda run: min(record["validation_loss"] for record in run.metrics))
    write_run(best, PRETRAINED / name, half=True)


def main(arguments: Arguments) -> None:
    """Measure the rows and write them beside those that are there."""
    report = json.loads(arguments.out.read_text()) if arguments.out.exists() else {}
    for name in arguments.rows:
        how = ROWS[name].evaluate
        if arguments.pretrained:
            arguments.runs.mkdir(parents=True, exist_ok=True)
            seeds = [measure(f"pretrained:{name}", how, arguments.runs / f"{name}.json")]
        else:
            directories = train(name, arguments.runs / name)
            seeds = [measure(directory, how, directory / "figures.json") for directory in directories]
            if arguments.ship:
                ship(name, directories)
        machine = {"cores": os.cpu_count(), "processor": platform.processor() or platform.machine()}
        report[name] = {
            "date": time.strftime("%Y-%m-%d"),
            "machine": machine,
            "train": ROWS[name].train,
            "evaluate": how,
            "seeds": seeds,
        }
        arguments.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main(tyro.cli(Arguments))
