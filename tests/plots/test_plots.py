"""Pictures, as a reader of the files sees them."""

import json
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from PIL import Image

from flax_vae import plots
from flax_vae.plots import style


def images_of(n, h=28, w=28, c=1, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, h, w, c), dtype=np.uint8)


def read(path):
    with Image.open(path) as picture:
        picture.load()
    assert picture.format == "PNG"
    return picture


def colours_in(picture):
    return {colour[:3] for _, colour in picture.getcolors(1 << 22)}


def curve(epochs, **first):
    rows = [{"epoch": e, "train_loss": 250 + 60 / e, "test_loss": 252 + 60 / e} for e in range(1, epochs + 1)]
    rows[0].update(first)
    return rows


def text_boxes(figure):
    """The place of each title, note and axis label."""
    texts = []
    for ax in figure.axes:
        texts += [ax._left_title, ax.xaxis.label, ax.yaxis.label, *ax.texts]
    return [(text.get_text(), text.get_window_extent()) for text in texts if text.get_text()]


@pytest.fixture
def coarse(monkeypatch):
    """Draw at a quarter of the resolution, which is faster and enough to detect errors and warnings."""
    monkeypatch.setattr(style, "DPI", 64)
    monkeypatch.setattr(plots.images, "DPI", 64)


# The bare mosaic


@pytest.mark.parametrize(
    ("shape", "mode"), [((28, 28, 1), "L"), ((20, 32, 3), "RGB"), ((9, 7, 2), "L"), ((5, 6, 4), "L")]
)
def test_mosaic_is_the_images_magnified(tmp_path, shape, mode):
    images = images_of(7, *shape)
    plots.save_image_grid(tmp_path / "grid.png", images, columns=3, padding=2)
    picture = read(tmp_path / "grid.png")
    h, w, _ = shape
    wide, high = 3 * (w + 2) - 2, 3 * (h + 2) - 2
    scale = picture.width // wide
    assert picture.mode == mode
    assert scale > 1
    assert picture.size == (wide * scale, high * scale)
    pixels = np.asarray(picture).reshape(high, scale, wide, scale, -1)
    assert (pixels == pixels[:, :1, :, :1]).all()
    for i, image in enumerate(images):
        top, left = i // 3 * (h + 2), i % 3 * (w + 2)
        shown = pixels[top : top + h, 0, left : left + w, 0]
        np.testing.assert_array_equal(shown, image if mode == "RGB" else image[..., :1])
    assert (pixels[:, 0, w : w + 2, 0] == 255).all(), "the gap is white"
    assert (pixels[h + 2 + h + 2 :, 0, w:, 0] == 255).all(), "empty places are white"


def test_mosaic_of_floats_is_that_of_their_uint8(tmp_path):
    images = images_of(4)
    plots.save_image_grid(tmp_path / "bytes.png", images, columns=2)
    for dtype in (np.float16, np.float32, np.float64):
        plots.save_image_grid(tmp_path / "floats.png", (images / 255).astype(dtype), columns=2)
        assert (tmp_path / "floats.png").read_bytes() == (tmp_path / "bytes.png").read_bytes()


def test_floats_out_of_range_are_clipped(tmp_path):
    images = np.array([-0.5, 0, 1, 1.5, np.nan, np.inf]).reshape(1, 1, 6, 1)
    plots.save_image_grid(tmp_path / "grid.png", images, columns=1)
    picture = read(tmp_path / "grid.png")
    shown = np.asarray(picture)[0, :: picture.width // 6]
    np.testing.assert_array_equal(shown, [0, 0, 255, 255, 0, 255])


def test_fewer_images_than_columns_and_none(tmp_path):
    plots.save_image_grid(tmp_path / "one.png", images_of(1), columns=10)
    assert read(tmp_path / "one.png").size == (168, 168)
    with pytest.raises(ValueError, match="no images"):
        plots.save_image_grid(tmp_path / "none.png", images_of(0), columns=10)
    assert [path.name for path in tmp_path.iterdir()] == ["one.png"]


def test_large_mosaic_preserves_every_pixel(tmp_path):
    images = images_of(9, 200, 300, 3)
    plots.save_image_grid(str(tmp_path / "grid.png"), images, columns=9, padding=0)
    np.testing.assert_array_equal(np.asarray(read(tmp_path / "grid.png")), np.concatenate(list(images), axis=1))


# Every picture

MEANS = np.random.default_rng(1).normal(size=(300, 8)).astype(np.float32)
LABELS = np.arange(300) % 10
NAMES = [f"class {i}" for i in range(10)]
BOUNDS = [
    {"num_samples": k, "log_likelihood": -1234.56, "standard_error_of_draws": 0.5, "images": 10_000}
    for k in (10, 100, 1000)
]
PICTURES = {
    "reconstructions": lambda: plots.plot_reconstructions(images_of(10), images_of(10) / 255, "Epoch 3"),
    "reconstructions, 13 in colour": lambda: plots.plot_reconstructions(
        images_of(13, 20, 32, 3), images_of(13, 20, 32, 3), "A $ and a \\title"
    ),
    "samples": lambda: plots.plot_samples(images_of(10)),
    "samples, large": lambda: plots.plot_samples(images_of(10, 256, 256, 3)),
    "grid": lambda: plots.plot_latent_grid(images_of(16).reshape(4, 4, 28, 28, 1), 2.0, (0, 1), 2),
    "grid of a line": lambda: plots.plot_latent_grid(images_of(30)[None], 2.0, (0,), 1),
    "grid of a plane among 8": lambda: plots.plot_latent_grid(
        images_of(12, 20, 32, 3).reshape(3, 4, 20, 32, 3), 1.5, (2, 6), 8
    ),
    "rows": lambda: plots.plot_rows(images_of(30).reshape(3, 10, 28, 28, 1), ["a", "bb", "all"], "A", "b"),
    "map": lambda: plots.plot_latent_map(MEANS, LABELS, NAMES, (2, 6), 8),
    "curves": lambda: plots.plot_curves(curve(50)),
    "curves of three terms": lambda: plots.plot_curves(curve(50, train_rate=12.0, test_distortion=1234.0)),
    "comparison": lambda: plots.plot_comparison({"run": [{"epoch": 1, "seconds": 1.0, "test_loss": 260.0}] * 2}),
    "evaluation by dimension": lambda: plots.plot_evaluation(BOUNDS, [9.5] * 40, (380.0,), "minus the cross-entropy"),
    "evaluation by layer": lambda: plots.plot_evaluation(BOUNDS, None, (9.5, 0.1, 1234.5)),
    "extremes": lambda: plots.plot_extremes(images_of(20), np.arange(20) * -1e3, "minus the cross-entropy"),
}


@pytest.mark.parametrize("name", PICTURES)
def test_picture(tmp_path, name):
    """The picture has the usual size, and no text overlaps another or leaves the picture, within and between panels."""
    path, figure = tmp_path / "picture.png", PICTURES[name]()
    plots.save_figure(path, figure)
    boxes = text_boxes(figure)
    for text, box in boxes:
        assert figure.bbox.containsx(box.x0), text
        assert figure.bbox.containsx(box.x1), text
    for (one, box), (other, another) in combinations(boxes, 2):
        assert not box.overlaps(another), (one, other)
    picture = read(path)
    assert 150 < picture.height < 2400
    assert 800 < picture.width < 3000
    assert path.stat().st_size < 1_500_000
    assert list(tmp_path.iterdir()) == [path], "no other file is left"


@pytest.mark.parametrize("name", ["samples", "grid"])
def test_same_input_same_bytes(tmp_path, name):
    for path in (tmp_path / "a.png", tmp_path / "b.png"):
        plots.save_figure(path, PICTURES[name]())
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_reconstructions_are_below_their_originals(tmp_path):
    originals = np.full((3, 28, 28, 1), 0.2)
    plots.save_figure(tmp_path / "pairs.png", plots.plot_reconstructions(originals, originals + 0.4, "Pairs"))
    pixels = np.asarray(read(tmp_path / "pairs.png").convert("L"))[110:, 330:]  # without the text
    above, below = np.argwhere(pixels == 51), np.argwhere(pixels == 153)
    assert len(above) == 3 * 168 * 168
    assert above[:, 0].max() < below[:, 0].min()
    assert (above[:, 1].min(), above[:, 1].max()) == (below[:, 1].min(), below[:, 1].max())


# The latent plane: z1 increases to the right, z2 upwards


@pytest.mark.parametrize("c", [1, 3])
def test_latent_grid_shows_each_image_pixel_for_pixel_with_the_second_latent_upwards(tmp_path, monkeypatch, c):
    monkeypatch.setattr(plots.images, "WIDEST", 600)
    images = images_of(30 * 30, 7, 9, c).reshape(30, 30, 7, 9, c)
    plots.save_figure(tmp_path / "grid.png", plots.plot_latent_grid(images, 2.0, (0, 1), 2))
    expected = images[::-1].swapaxes(1, 2).reshape(30 * 7, 30 * 9, c)
    expected = expected.repeat(2, 0).repeat(2, 1)
    pixels = np.asarray(read(tmp_path / "grid.png").convert("RGB"))
    left, bottom = 190, 150
    shown = pixels[-bottom - len(expected) : -bottom, left : left + expected.shape[1]]
    # Ticks may shade the outermost pixels.
    np.testing.assert_array_equal(shown[1:-1, 1:-1], np.broadcast_to(expected, shown.shape)[1:-1, 1:-1])


@pytest.mark.parametrize(("rows", "columns"), [(1, 1), (1, 30), (2, 2), (9, 1)])
def test_latent_grid_of_any_size(tmp_path, rows, columns):
    images = images_of(rows * columns).reshape(rows, columns, 28, 28, 1)
    plots.save_figure(tmp_path / "grid.png", plots.plot_latent_grid(images, 2.0, (0, 1)[: 1 + (rows > 1)], 2))
    read(tmp_path / "grid.png")


def test_latents_are_counted_from_one():
    assert style.shown_latents((0, 1), 2) == "z₁ and z₂"
    assert style.shown_latents((2, 11), 16) == "z₃ and z₁₂, the two of 16 with the highest activity"
    assert style.shown_latents((4,), 8) == "z₅, the one of 8 with the highest activity"


# The map of posterior means


@pytest.mark.parametrize(("classes", "dimensions"), [(1, 2), (20, 2), (100, 2), (100, 1)])
def test_map_of_any_number_of_classes(tmp_path, coarse, classes, dimensions):
    labels = (np.arange(300) % classes).astype(np.uint8)
    plots.save_figure(tmp_path / "map.png", plots.plot_latent_map(MEANS, labels, None, (0, 1)[:dimensions], 8))
    read(tmp_path / "map.png")


def test_map_colours_classes(tmp_path, coarse):
    plots.save_figure(tmp_path / "named.png", plots.plot_latent_map(MEANS, LABELS, NAMES, (0, 1), 8))
    plots.save_figure(tmp_path / "plain.png", plots.plot_latent_map(MEANS, None, None, (0, 1), 8))
    tab10 = {(31, 119, 180), (255, 127, 14), (44, 160, 44), (214, 39, 40), (148, 103, 189)}
    assert tab10 <= colours_in(read(tmp_path / "named.png")), "the legend's dots are opaque"
    assert not tab10 & colours_in(read(tmp_path / "plain.png"))


@pytest.mark.parametrize("dimensions", [1, 2])
def test_map_of_odd_names_unknown_labels_and_a_collapsed_latent(tmp_path, coarse, dimensions):
    labels = np.arange(300) % 5 - 1
    names = ["$x^$", "_hidden", "服", "a name that is longer than any legend should be wide"]
    means = np.full((300, 2), 0.5, np.float32)
    plots.save_figure(tmp_path / "map.png", plots.plot_latent_map(means, labels, names, (0, 1)[:dimensions], 2))
    read(tmp_path / "map.png")


# The curves


@pytest.mark.parametrize(
    "metrics",
    [
        curve(3, train_rate=1e5, test_rate=0.0, train_distortion=1e12),
        curve(12, train_loss=float("nan"), test_loss=None),
        [{"epoch": e, "train_loss": -1000.0} for e in range(3)],
        [{"epoch": 1, "train_loss": float("nan")}],
        json.loads(
            '[{"epoch": 1, "train_loss": 260, "train_rate": 6}, {"epoch": 2, "train_loss": 259, "test_loss": 260}]'
        ),
        [],
    ],
    ids=["huge", "gaps", "no test set", "nothing finite", "test loss of some epochs", "none"],
)
def test_curves_of_odd_metrics(tmp_path, coarse, metrics):
    plots.save_figure(tmp_path / "curves.png", plots.plot_curves(metrics))
    read(tmp_path / "curves.png")


def test_a_single_epoch_is_visible(tmp_path):
    plots.save_figure(tmp_path / "curves.png", plots.plot_curves([{"epoch": 1, "train_loss": 261, "test_loss": 262}]))
    assert {(76, 120, 168), (228, 87, 46)} <= colours_in(read(tmp_path / "curves.png"))


def test_a_huge_first_epoch_does_not_flatten_the_rest(tmp_path, coarse):
    def heights(**first):
        plots.save_figure(tmp_path / "curves.png", plots.plot_curves(curve(50, **first)))
        pixels = np.asarray(read(tmp_path / "curves.png").convert("RGB"))[90:, 40:]
        return np.ptp(np.argwhere((pixels == (76, 120, 168)).all(-1))[:, 0])

    assert heights(train_loss=1e6) > 0.9 * heights()


# The module


def test_importing_is_light_and_drawing_does_not_use_pyplot(tmp_path):
    code = f"""
import sys
import numpy as np
from flax_vae import plots
from flax_vae.plots import style
assert "matplotlib" not in sys.modules
plots.save_figure({str(tmp_path / "samples.png")!r}, plots.plot_samples(np.zeros((2, 8, 8, 1))))
assert "matplotlib.pyplot" not in sys.modules
"""
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)
