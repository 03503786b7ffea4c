"""White shapes on black in every combination of five factors, drawn on the fly: images whose factors are known.

After dSprites: Matthey, Higgins, Hassabis and Lerchner (2017), at half its side. In dSprites a square looks the same
after every quarter turn and an ellipse after every half turn; here no two combinations look the same.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import UInt8

from flax_vae.data.examples import Examples, make_examples, nine_to_one
from flax_vae.data.sources import SOURCES

NAME = "sprites"
SHAPES = ("ellipse", "triangle", "heart")
SCALES = np.linspace(0.5, 1, 5)
ORIENTATIONS = np.radians(np.arange(0, 91, 15))  # anticlockwise, to 90 degrees: the ellipse's largest distinct turn
POSITIONS = 12  # along each axis, one pixel apart
FACTOR_NAMES = ("shape", "scale", "orientation", "x", "y")
SIDE = 32
LARGEST = 96  # the area in pixels of every shape at scale 1; no position moves it over the edge
FINE = 8  # sample points per pixel and axis: enough for grey edges


@SOURCES.register(NAME)
def load_sprites(split: str) -> Examples:
    """Draw the 32x32x1 images of a split, with their factors and the shapes as labels; a tenth is held out.

    A factor is the index of its value, in ascending order: `x` counts pixels to the right, `y` pixels downwards. The
    images are shuffled in a fixed order, because pictures and measurements often take the first ones.
    """
    images = draw()
    sizes = len(SHAPES), len(SCALES), len(ORIENTATIONS), POSITIONS, POSITIONS
    factors = np.indices(sizes, np.int32).reshape(len(sizes), -1).T
    chosen = np.random.default_rng(0).permutation(len(images))[nine_to_one(len(images), split, NAME)]
    data = make_examples(images[chosen], factors[chosen, 0], SHAPES, NAME, "drawn by flax_vae")
    return replace(data, factors=factors[chosen], factor_names=FACTOR_NAMES)


def draw() -> UInt8[np.ndarray, "n 32 32 1"]:
    """Draw all images; the last factor changes fastest.

    Each shape is drawn once per scale and orientation, in the middle of a larger picture; the positions are windows of
    that picture. Shapes turn and grow about their centres of mass and have equal areas, so that no factor reveals
    another.
    """
    side = SIDE + POSITIONS - 1
    points = (np.arange(side * FINE) + 0.5) / FINE - side / 2
    right, up = points, -points[:, None]
    cos, sin = np.cos(ORIENTATIONS)[:, None, None], np.sin(ORIENTATIONS)[:, None, None]
    size = np.sqrt(LARGEST) * SCALES[:, None, None, None]
    u, v = (cos * right + sin * up) / size, (cos * up - sin * right) / size

    # In (u, v) each shape has area 1 and its centre of mass at 0. The heart is a square of side 2 on its corner with
    # half discs on its upper sides, scaled to area 1.
    height = np.sqrt(2.5)
    root, centre = np.sqrt(4 + np.pi), (np.pi + 4 / 3) / (np.sqrt(2) * (4 + np.pi))
    across, along = np.abs(u) * root, v * root + centre
    ellipse = u**2 + 4 * v**2 < 2 / np.pi
    triangle = (v > -height / 3) & (np.abs(u) < 0.4 * (2 / 3 * height - v))
    square = across + np.abs(along) < np.sqrt(2)
    heart = square | ((across - np.sqrt(0.5)) ** 2 + (along - np.sqrt(0.5)) ** 2 < 1)

    inside = np.stack([ellipse, triangle, heart])
    coverage = inside.reshape(*inside.shape[:3], side, FINE, side, FINE).mean((4, 6))
    windows = np.lib.stride_tricks.sliding_window_view(np.rint(255 * coverage).astype(np.uint8), (SIDE, SIDE), (3, 4))
    # A window further left shows its shape further right. Windows are ordered (y, x), factors (x, y).
    return windows[:, :, :, ::-1, ::-1].swapaxes(3, 4).reshape(-1, SIDE, SIDE, 1)
