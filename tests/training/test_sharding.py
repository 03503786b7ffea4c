"""Meshes of devices."""

import jax
import pytest

from flax_vae import UserError
from flax_vae.training.sharding import data_mesh


def test_impossible_meshes_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match=r"`devices` is 99, but there are \d+ \("):
        data_mesh(198, 99)
    monkeypatch.setattr(jax, "device_count", lambda: 4)
    with pytest.raises(UserError, match="3 devices cannot split a batch of 128 images evenly"):
        data_mesh(128, 3)
    with pytest.raises(UserError, match="`fsdp` is 3 and must divide the number of devices, 4"):
        data_mesh(128, 4, fsdp=3)
