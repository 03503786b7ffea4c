"""Evaluations and runs as tables on the terminal."""

import math
from collections.abc import Sequence
from pathlib import Path

from flax_vae.plots.curves import plot_comparison
from flax_vae.runs.directory import RunDirectory
from flax_vae.runs.records import Record, best_record, held_out_set
from flax_vae.system.console import log, print_table, printable
from flax_vae.system.errors import UserError


def show(result: Record) -> None:
    """Print an evaluation as a table."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False, show_header=False)
    for name in ("elbo", "rate", "distortion"):
        table.add_row(name, f"{result['elbo'][name]:.2f}", "nats per image")
    last = result["importance_weighted"][-1]
    for row in result["importance_weighted"]:
        errors = row["standard_error_of_draws"], row["standard_error_of_images"]
        note = "nats; ± {:.2f} by the draws, ± {:.2f} by the choice of {} images".format(*errors, row["images"])
        name = "IW bound" if result["not_a_likelihood"] else "log p(x)"
        table.add_row(f"{name}, {row['num_samples']} samples", f"{row['log_likelihood']:.2f}", note)
    if last["images_of_high_pareto_k"]:
        table.add_row(
            "", "", "loose for {images_of_high_pareto_k} of {images} images, by their Pareto k".format(**last)
        )
    if annealed := result["annealed"]:
        errors = annealed["standard_error_of_draws"], annealed["standard_error_of_images"]
        note = "nats; ± {:.2f} by the chains, ± {:.2f} by the choice of the same {} images".format(
            *errors, annealed["images"]
        )
        table.add_row(f"annealed, {annealed['num_steps']} steps", f"{annealed['log_likelihood']:.2f}", note)
    if result["not_a_likelihood"]:
        table.add_row("", "", f"of the {result['not_a_likelihood']}")
    elif result["bits_per_dim"] is None:
        table.add_row("bits per dimension", "", "none: the likelihood is a density of continuous pixels")
    else:
        table.add_row("bits per dimension", f"{result['bits_per_dim']:.4f}")
    if surgery := result["surgery"]:
        most = math.log(surgery["images"])  # nats: the highest estimate from so many images
        hidden = surgery["mutual_information"] > most - 1
        note = f"nats, of the rate; {surgery['images']:,} images show no more than {most:.1f}" if hidden else ""
        table.add_row("mutual information", f"{surgery['mutual_information']:.2f}", note or "nats, of the rate")
        note = "the rest of it" if hidden else "nats, of the rate: q(z) from the prior"
        table.add_row("marginal KL", f"{surgery['marginal_kl']:.2f}", note)
    if len(result["layer_rates"]) > 1:
        shown = "  ".join(f"{each:.2f}" for each in result["layer_rates"])
        table.add_row("rate by layer", "", f"{shown}  nats, top first")
    if result["latent_dim"]:
        table.add_row("active units", str(result["active_units"]), f"of {result['latent_dim']} latent dimensions")
    if result["dimension_rates"] is not None:
        highest = sorted(result["dimension_rates"], reverse=True)
        shown = "  ".join(f"{each:.2f}" for each in highest[:8]) + ("  ..." if len(highest) > 8 else "")
        table.add_row("rate by dimension", "", f"{shown}  nats, the highest first")
    table.add_row("reconstruction", f"{result['reconstruction_mse']:.4f}", "squared error per pixel")
    for name, accuracy in (result["accuracy"] or {}).items():
        table.add_row(
            f"{name.replace('_', ' ')} accuracy", f"{100 * accuracy:.1f} %", "of labels, from posterior means"
        )
    if frechet := result["frechet"]:
        note = "{images:,} samples from test images; {floor:.2f} as many training images".format(**frechet)
        table.add_row("Fréchet distance", f"{frechet['distance']:.2f}", note)
        note = "features of {classifier} (seed {seed}), accuracy {percent:.1f} %"
        table.add_row("", "", note.format(**frechet, percent=100 * frechet["accuracy"]))
    for name, score in (result["disentanglement"] or {}).items():
        table.add_row(name, f"{score:.2f}", "posterior means and factors, 0 to 1")
    print_table(table)
    if result["alarm"]:
        log(f"WARNING: {result['alarm']}")


def compare(directories: Sequence[str | Path], picture: Path) -> None:
    """Print runs beside each other, with their evaluations where there are any, and draw their test losses.

    Raises:
        UserError: one of them is no run, or has no finished epoch.
    """
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("run", overflow="fold")
    for title in ("epoch", "seconds", "loss", "rate", "distortion", "IW bound", "active", "Fréchet"):
        table.add_column(title, justify="right", no_wrap=True)
    curves = {}
    for directory in (RunDirectory(Path(each)) for each in directories):
        config, _ = directory.config()
        metrics = directory.metrics()
        if (best := best_record(metrics)) is None:
            raise UserError(f"{directory} has no finished epoch yet.")
        curves[str(directory)] = metrics
        numbers = [
            f"{best[name]:.2f}" if name in best else ""
            for name in (f"{held_out_set(best)}_{term}" for term in ("loss", "rate", "distortion"))
        ]
        found = directory.evaluation(best["step"])
        bound = found and found["importance_weighted"][-1]
        table.add_row(
            printable(str(directory)), f"{best['epoch']}/{config.epochs}", f"{metrics[-1]['seconds']:.0f}", *numbers,
            f"{bound['log_likelihood']:.2f}" if bound else "not evaluated",
            f"{found['active_units']}/{found['latent_dim']}" if found and found["latent_dim"] else "",
            f"{found['frechet']['distance']:.2f}" if found and found["frechet"] else "",
        )  # fmt: skip
    print_table(table)
    plot_comparison(picture, curves)
