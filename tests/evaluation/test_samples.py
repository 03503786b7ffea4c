"""The class of new images, by name or by number."""

from dataclasses import replace

import numpy as np
import pytest

from flax_vae import load_run
from flax_vae.evaluation.samples import contexts_of


@pytest.mark.parametrize(("label", "name"), [("2", "2"), ("12", "12"), ("1", "1"), ("0", "1"), ("shirt", "shirt")])
def test_the_name_of_a_class_takes_precedence_over_a_number(label: str, name: str) -> None:
    """Folders named 1 to 12 are sorted as text: the class "2" is the fifth, and number 2 is the class "11"."""
    names = (*sorted(str(number) for number in range(1, 13)), "shirt")
    run = replace(load_run("pretrained:mlp"), class_names=names)
    contexts = contexts_of(run, label, 3)
    assert contexts is not None
    assert contexts.shape == (3, 13)
    np.testing.assert_array_equal(contexts.argmax(1), names.index(name))
