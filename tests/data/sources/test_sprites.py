"""Sprites: every combination of the factors is drawn once, as the factors describe."""

import numpy as np
import pytest
from PIL import Image

from flax_vae.data import absolute, load_images

SIZES = (3, 5, 7, 12, 12)


@pytest.fixture(scope="module")
def both():
    return load_images("sprites"), load_images("sprites", "test")


@pytest.fixture(scope="module")
def grid(both):
    """Images in [0, 1], indexed by their factors."""
    pictures = np.full((*SIZES, 32, 32), np.nan)
    for data in both:
        pictures[tuple(data.factors.T)] = data.x[..., 0] / 255
    return pictures


def test_every_combination_is_drawn_once_and_looks_unique(both):
    train, test = both
    assert (len(train.x), len(test.x)) == (13_608, 1_512)
    factors, images = (np.concatenate([getattr(data, name) for data in both]) for name in ("factors", "x"))
    combinations = np.indices(SIZES).reshape(5, -1).T
    np.testing.assert_array_equal(np.unique(factors, axis=0), combinations)
    assert len({image.tobytes() for image in images}) == len(images) == len(combinations)
    assert train.factor_names == test.factor_names == ("shape", "scale", "orientation", "x", "y")


def test_labels_are_shapes_and_the_first_images_cover_all_values(both):
    for data in both:
        np.testing.assert_array_equal(data.labels, data.factors[:, 0])
        assert data.names == ("ellipse", "triangle", "heart")
        assert [len(np.unique(column)) for column in data.factors[:200].T] == list(SIZES)


def test_position_is_the_centre_of_mass_and_nothing_else_moves_it(grid):
    mass, pixels = grid.sum((-2, -1)), np.arange(32) + 0.5
    x, y = (grid.sum(-2) @ pixels) / mass, (grid.sum(-1) @ pixels) / mass
    expected = np.arange(12) + 10.5
    np.testing.assert_allclose(x, np.broadcast_to(expected[:, None], SIZES), atol=0.05)
    np.testing.assert_allclose(y, np.broadcast_to(expected, SIZES), atol=0.05)


def test_scale_is_the_root_of_the_area_and_nothing_else_changes_it(grid):
    area = 96 * np.linspace(0.5, 1, 5) ** 2
    np.testing.assert_allclose(grid.sum((-2, -1)), np.broadcast_to(area[:, None, None, None], SIZES), rtol=0.02)


def test_orientation_ends_a_quarter_turn_anticlockwise(grid):
    middle = grid[:, :, :, 6, 6, 1:, 1:]
    np.testing.assert_array_equal(middle[:, :, 6], np.rot90(middle[:, :, 0], axes=(-2, -1)))


def test_drawing_is_deterministic(both):
    sums = [data.provenance["sha256"] for data in both]
    assert sums == [
        "6fb60c853312753a3395ba5ae4e6ec93f557786db00dc71e16ace5bf29d4240c",
        "858e434d6517419786e8e512cd41137dfa3e9d17de74abd9bf502a6035bd74ff",
    ]


def test_resized_images_keep_the_factors(both):
    small = load_images("sprites", "test", image_size=16)
    assert small.x.shape == (1_512, 16, 16, 1)
    assert small.provenance["shape"] == [16, 16, 1]
    assert small.provenance["sha256"] != both[1].provenance["sha256"]
    np.testing.assert_array_equal(small.factors, both[1].factors)
    assert small.factor_names == both[1].factor_names


def test_a_folder_of_that_name_is_a_path(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert absolute("sprites") == "sprites"
    (tmp_path / "sprites").mkdir()
    for i in range(2):
        Image.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / f"sprites/{i}.png")
    assert absolute("sprites") == str(tmp_path / "sprites")
    assert load_images("sprites").x.shape == (1, 4, 4, 1)
