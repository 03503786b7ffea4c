"""Paths that are not image sets are refused in one line."""

import numpy as np
import pytest

from flax_vae.data import SOURCES, load_images
from flax_vae.data.examples import Examples, make_examples
from flax_vae.data.load import absolute
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


def test_a_source_takes_hyperparameters(monkeypatch):
    for name in ("_makers", "facts"):
        monkeypatch.setattr(SOURCES, name, dict(getattr(SOURCES, name)))

    @SOURCES.register("blank")
    def blank(split: str, number: int = 10) -> Examples:
        return make_examples(np.zeros((number, 2, 2, 1), np.uint8), None, None, "blank", f"{split} images for a test")

    assert len(load_images("blank").x) == 10
    assert len(load_images("blank(number=3)", "test").x) == 3
    assert absolute("blank(number=3)") == "blank(number=3)"
    with pytest.raises(UserError, match=r"the signature is blank\(number=10\)"):
        load_images("blank(size=3)")
    with pytest.raises(UserError, match=r"blanck: no data set of this name.*did you mean blank\?"):
        load_images("blanck")


def test_an_unknown_name_lists_the_sources():
    with pytest.raises(UserError, match=r"pass fashion_mnist, .*sprites, the name of a TFDS image set, a folder"):
        load_images("qqqqqq")
