"""Images of another shape keep their proportions, unless they are to be stretched.

The kind: photographs that are read at another aspect ratio than their own.
"""

from pathlib import Path

import numpy as np
import pytest
from files import save

from flax_vae import prepare_images
from flax_vae.data import load_images
from flax_vae.data.resizing import Size, resize
from flax_vae.system.errors import UserError


def disc(height: int, width: int) -> np.ndarray:
    """A white disc in the middle, as high as the smaller side, with a grey stripe at each end of the longer one."""
    y, x = np.mgrid[:height, :width]
    radius = min(height, width) / 2
    inside = (y - height / 2 + 0.5) ** 2 + (x - width / 2 + 0.5) ** 2 <= radius**2
    image = np.uint8(255) * inside
    if width > height:
        image[:, :4] = image[:, -4:] = 100
    return image[..., None]


@pytest.mark.parametrize(("height", "width"), [(64, 160), (160, 64)])
def test_a_disc_stays_a_disc(height: int, width: int) -> None:
    expected = resize(disc(64, 64), Size((32, 32)))
    np.testing.assert_allclose(resize(disc(height, width), Size((32, 32))), expected, atol=20)  # at the edge
    stretched = resize(disc(height, width), Size((32, 32), "stretch"))
    assert np.abs(stretched.astype(int) - expected).max() > 64


def test_a_crop_has_the_shape_that_is_asked_for() -> None:
    """Also when it is not square; images of that shape are not cropped, and have the same bits as when stretched."""
    image = np.random.default_rng(0).integers(0, 256, (49, 147, 3), np.uint8)
    np.testing.assert_array_equal(resize(image, Size((7, 21))), resize(image, Size((7, 21), "stretch")))
    np.testing.assert_array_equal(resize(image, Size((49, 21))), image[:, 63:84])
    assert resize(image, Size((64, 1))).shape == (64, 1, 3)
    assert resize(image[:1], Size((64, 1))).shape == (64, 1, 3)


@pytest.mark.parametrize("how", ["crop", "stretch"])
def test_sets_are_resized_and_prepared_in_the_way_that_is_asked_for(how: str, tmp_path: Path) -> None:
    for i in range(4):
        save(tmp_path / f"discs/{i}.png", disc(64, 96 + 32 * i))
    np.save(tmp_path / "discs.npy", np.stack([disc(64, 160)] * 4))
    for name in (tmp_path / "discs", tmp_path / "discs.npy"):
        images = load_images(name, image_size=32, resize=how).x
        out = tmp_path / f"{name.name}-out"
        prepare_images(name, out, image_size=32, resize=how)
        np.testing.assert_array_equal(load_images(out).x, images)
        is_disc = np.abs(images[-1].astype(int) - resize(disc(64, 64), Size((32, 32)))).max() <= 20
        assert is_disc == (how == "crop")


@pytest.mark.usefixtures("unchecked_types")
def test_another_way_to_resize_is_refused() -> None:
    with pytest.raises(UserError, match="`resize` must be crop or stretch, not pad"):
        load_images("sprites", image_size=8, resize="pad")  # type: ignore[arg-type]
