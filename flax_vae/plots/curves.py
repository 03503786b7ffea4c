"""Line plots over epochs, seconds or samples."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from flax_vae.plots.style import GREY, INK, SETS, Axes, Figure, add_heading, make_panels


def plot_curves(metrics: Sequence[Mapping[str, Any]], example: str = "image") -> Figure:
    """Draw the loss over epochs, and the rate and the distortion if they are reported, in nats per image.

    Args:
        metrics: the records of metrics.jsonl, with `epoch` and any of loss, rate and distortion of the sets, such as
            `train_loss` and `test_rate`.
        example: the noun for an example.
    """
    terms = [name for name in ("rate", "distortion") if any(f"{s}_{name}" in row for s in SETS for row in metrics)]
    layout = [["loss", name] for name in terms] or [["loss"]]
    panels = make_panels(layout, 7.6 if terms else 5.6, 4.3, width_ratios=[1.9, 1][: len(layout[0])])
    notes = {name: _draw_curves(ax, name, metrics) for name, ax in panels.items()}
    for name in terms:
        add_heading(panels[name], name.capitalize(), notes[name])
    for name in terms[:-1]:
        panels[name].set_xlabel("")
    if notes["loss"]:
        panels["loss"].legend(frameon=False, loc="upper right", labelcolor=INK)
        notes["loss"] += f" nats per {example} after epoch {metrics[-1]['epoch']}"
    return add_heading(panels["loss"], "Loss", notes["loss"])


def plot_comparison(runs: Mapping[str, Sequence[Mapping[str, Any]]], example: str = "image") -> Figure:
    """Draw the test losses of runs over epochs and over seconds.

    Args:
        runs: the records of metrics.jsonl of each run, by name.
        example: the noun for an example.
    """
    panels = make_panels([["epoch", "seconds"]], 11.0, 4.5, sharey=True)
    for name, metrics in runs.items():
        for axis, ax in panels.items():
            losses = [record.get("validation_loss", record.get("test_loss")) for record in metrics]
            ax.plot([record[axis] for record in metrics], losses, label=name, linewidth=1.6, marker="o", markersize=3.5)
            ax.set_xlabel(axis)
    panels["epoch"].locator_params(axis="x", integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
    panels["seconds"].legend(frameon=False, labelcolor=INK)
    return add_heading(panels["epoch"], "Test loss", f"nats per {example}")


def plot_evaluation(
    bounds: Sequence[Mapping[str, Any]],
    dimension_rates: Sequence[float] | None,
    layer_rates: Sequence[float] = (),
    quantity: str = "log p(x)",
    example: str = "image",
) -> Figure:
    """Draw the importance-weighted bound over its number of samples, and the rates of layers or dimensions.

    Args:
        bounds: the bounds in evaluation.json; error bars are two standard errors of the draws.
        dimension_rates: rates of the latent dimensions, drawn if there is a single layer.
        layer_rates: rates of the layers, drawn if there are several.
        quantity: the quantity that is bounded.
        example: the noun for an example.
    """
    by_layer = len(layer_rates) > 1
    rates = layer_rates if by_layer else sorted(dimension_rates or (), reverse=True)
    panels = make_panels([["bound", "rates"]] if rates else [["bound"]], 9.0 if rates else 5.6, 4.0)
    ax, counts = panels["bound"], [row["num_samples"] for row in bounds]
    values, errors = zip(*((row["log_likelihood"], 2 * row["standard_error_of_draws"]) for row in bounds), strict=True)
    ax.errorbar(counts, values, errors, color=SETS["test"], marker="o", markersize=4, capsize=3)
    ax.set_xscale("log")
    ax.set_xticks(counts, [f"{count:,}" for count in counts])
    ax.set_xticks([], minor=True)
    ax.set_xlabel(f"samples per {example}")
    if rates:
        panels["rates"].bar(range(1, len(rates) + 1), rates, color=SETS["train"], width=0.8)
        panels["rates"].locator_params(axis="x", integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
        panels["rates"].set_xlabel("layers, top first" if by_layer else "latent dimensions, highest rate first")
        title = f"Rate by {'layer' if by_layer else 'dimension'}"
        add_heading(panels["rates"], title, f"{sum(rates):.2f} nats per {example} in total")
    bound, count = bounds[-1]["log_likelihood"], bounds[-1]["images"]
    note = f"{bound:,.2f} nats per {example}, the mean over {count:,} {example}s"
    return add_heading(ax, f"IW bound on {quantity}", note)


def _draw_curves(ax: Axes, name: str, metrics: Sequence[Mapping[str, Any]]) -> str:
    """Draw a term of each set, and return a note with the latest values."""
    values: list[float] = []
    latest = []
    for kind, colour in SETS.items():
        reported = [(row["epoch"], row.get(f"{kind}_{name}")) for row in metrics]
        points = [(epoch, value) for epoch, value in reported if value is not None and np.isfinite(value)]
        if points:
            marker = "o" if len(points) <= 20 else None
            ax.plot(*zip(*points, strict=True), color=colour, label=kind, linewidth=1.6, marker=marker, markersize=3.5)
            values += [value for _, value in points]
            latest.append(f"{kind} {points[-1][1]:,.2f}")
    if values:
        low, lower, upper, high = np.quantile(values, [0, 0.25, 0.75, 1], method="lower")
        room = max(5 * (upper - lower), (upper - low) / 3)
        # A first epoch far above the others would flatten their curve: the axis is cut and annotated.
        if room > 0 and high > upper + 2 * room:
            ax.set_ylim(low - 0.05 * (upper + room - low), upper + room)
            text = f"↑ up to {high:,.0f}"
            ax.text(0.5, 0.96, text, transform=ax.transAxes, ha="center", va="top", color=GREY, fontsize=8)
    ax.locator_params(axis="x", integer=True, min_n_ticks=1, steps=[1, 2, 5, 10])
    ax.set_xlabel("epoch")
    return " · ".join(latest)
