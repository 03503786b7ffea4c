"""White shapes on black in every combination of five factors, drawn here: images whose factors are known.

After dSprites: Matthey, Higgins, Hassabis and Lerchner (2017), at half its side. There a square looks the same after
every quarter turn and an ellipse after every half; here no shape comes near its own picture again.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import UInt8

from flax_vae.data.images import SOURCES, ImageData, image_data, nine_to_one

NAME = "sprites"
SHAPES = ("ellipse", "triangle", "heart")
SCALES = np.linspace(0.5, 1, 5)
ORIENTATIONS = np.radians(np.arange(0, 91, 15))  # anticlockwise; 90 degrees are as far as an ellipse can turn away
POSITIONS = 12  # a pixel apart, either way
FACTOR_NAMES = ("shape", "scale", "orientation", "x", "y")
SIDE = 32
LARGEST = 96  # the area in pixels of every shape at scale 1; no position takes it over the edge
FINE = 8  # points, each way, at which a pixel is looked at: enough for grey edges


@SOURCES.register(NAME)
def load_sprites(split: str) -> ImageData:
    """The 32x32x1 images of the split, with their factors and the shapes as labels; a tenth of them is held out.

    A factor is the index of its value, in ascending order: `x` counts pixels to the right, `y` pixels downwards. The
    images are shuffled, always alike: pictures and measurements often take the first.
    """
    images = draw()
    sizes = len(SHAPES), len(SCALES), len(ORIENTATIONS), POSITIONS, POSITIONS
    factors = np.indices(sizes, np.int32).reshape(len(sizes), -1).T
    chosen = np.random.default_rng(0).permutation(len(images))[nine_to_one(len(images), split, NAME)]
    data = image_data(images[chosen], factors[chosen, 0], SHAPES, NAME, "drawn by flax_vae")
    return replace(data, factors=factors[chosen], factor_names=FACTOR_NAMES)


def draw() -> UInt8[np.ndarray, "n 32 32 1"]:
    """All images, the last factor changing fastest.

    Each shape is drawn in every scale and orientation, once and in the middle of a larger picture; the positions are
    windows of that. Shapes turn and grow about their centres of mass and have equal areas, so that none of these
    factors tells of another.
    """
    side = SIDE + POSITIONS - 1
    points = (np.arange(side * FINE) + 0.5) / FINE - side / 2
    right, up = points, -points[:, None]
    cos, sin = np.cos(ORIENTATIONS)[:, None, None], np.sin(ORIENTATIONS)[:, None, None]
    size = np.sqrt(LARGEST) * SCALES[:, None, None, None]
    u, v = (cos * right + sin * up) / size, (cos * up - sin * right) / size

    # In (u, v), each has the area 1 and its centre of mass at 0. The heart is a square of side 2 on its corner with
    # half discs on its upper sides, before it is brought to that.
    height = np.sqrt(2.5)
    root, centre = np.sqrt(4 + np.pi), (np.pi + 4 / 3) / (np.sqrt(2) * (4 + np.pi))
    across, along = np.abs(u) * root, v * root + centre
    ellipse = u**2 + 4 * v**2 < 2 / np.pi
    triangle = (v > -height / 3) & (np.abs(u) < 0.4 * (2 / 3 * height - v))
    square = across + np.abs(along) < np.sqrt(2)
    heart = square | ((across - np.sqrt(0.5)) ** 2 + (along - np.sqrt(0.5)) ** 2 < 1)

    covered = np.stack([ellipse, triangle, heart])
    shares = covered.reshape(*covered.shape[:3], side, FINE, side, FINE).mean((4, 6))
    windows = np.lib.stride_tricks.sliding_window_view(np.rint(255 * shares).astype(np.uint8), (SIDE, SIDE), (3, 4))
    # A window further left shows its shape further right. Windows come as (y, x), factors as (x, y).
    return windows[:, :, :, ::-1, ::-1].swapaxes(3, 4).reshape(-1, SIDE, SIDE, 1)
