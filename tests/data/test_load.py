"""Paths that are not image sets are refused in one line."""

import pytest

from flax_vae.data import load_images
from flax_vae.system.errors import UserError


def test_other_paths_are_refused(tmp_path):
    (tmp_path / "notes.txt").write_text("no images")
    with pytest.raises(UserError, match="neither a folder of images nor"):
        load_images(tmp_path / "notes.txt")
    for name in ("missing.npy", "./missing", str(tmp_path / "missing")):
        with pytest.raises(UserError, match="no such file or folder"):
            load_images(name)
    with pytest.raises(UserError, match="at least one pixel"):
        load_images(image_size=0)
