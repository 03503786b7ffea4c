"""The style of all pictures.

Matplotlib is imported inside functions, so that `import flax_vae` stays light, and used through its objects, so that it
needs no display and changes no global state.
"""

import os
import warnings
from typing import Any

from flax_vae.system.files import write_atomically

Axes = Any  # of Matplotlib, which is imported later
Figure = Any
FilePath = str | os.PathLike[str]
DPI = 256  # a power of two: pixels / DPI * DPI is exact, so no row of pixels is lost to rounding
INK, GREY, FAINT = "#222222", "#6b6b6b", "#e8e8e8"
SETS = {"train": "#4c78a8", "validation": "#e4572e", "test": "#e4572e"}


def make_panels(layout: list[Any], width: float, height: float, **options: Any) -> dict[str, Axes]:
    """Return axes by name, in a figure of `width` x `height` inches, on a faint grid without a box."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    spacing = ConstrainedLayoutEngine(w_pad=0.12, h_pad=0.12)
    figure = Figure(figsize=(width, height), dpi=DPI, facecolor="white", layout=spacing)
    panels = figure.subplot_mosaic(layout, **options)
    for ax in panels.values():
        ax.spines[["top", "right"]].set_visible(False)
        ax.spines[["left", "bottom"]].set_color(GREY)
        ax.tick_params(labelsize=9, labelcolor=INK, color=GREY, length=3)
        ax.grid(color=FAINT, linewidth=0.8)
        ax.set_axisbelow(True)
    return panels


def add_heading(ax: Axes, title: str, note: str = "") -> Figure:
    """Write a title at the upper left and a grey note below it, and return the figure."""
    ax.set_title(title, loc="left", fontsize=11, fontweight="bold", color=INK, pad=22 if note else 8)
    ax.annotate(note, (0, 1), (0, 7), "axes fraction", "offset points", fontsize=9, color=GREY, in_layout=False)
    return ax.figure


def latent_name(index: int) -> str:
    """Return the name of a latent as in papers, counted from one: z₁."""
    return f"z{index + 1}".translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def shown_latents(plane: tuple[int, ...], latent_dim: int) -> str:
    """Describe the latents that a picture shows, and the reason if there are more."""
    names = " and ".join(map(latent_name, plane))
    which = f", the {'two' if len(plane) == 2 else 'one'} of {latent_dim} with the highest activity"
    return names + which if latent_dim > len(plane) else names


def save_figure(path: FilePath, figure: Figure) -> None:
    """Write a figure as a PNG file without metadata: equal figures give equal files."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph")  # boxes replace scripts that the font lacks
        write_atomically(path, lambda part: figure.savefig(part, format="png", metadata={"Software": None}))
