"""How much memory there is."""

import pytest

from flax_vae import UserError
from flax_vae.memory import free_memory, refuse_larger


def test_there_is_some_and_not_without_end() -> None:
    assert 2**26 < free_memory() < 2**50


def test_what_fits_is_not_refused() -> None:
    refuse_larger(2**30, "this", "do that", there=2**30)
    with pytest.raises(UserError, match=r"^this: 1,024 MiB of memory are needed, and 1,023 are free: do that\.$"):
        refuse_larger(2**30, "this", "do that", there=2**30 - 1)
