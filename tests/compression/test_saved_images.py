"""Images that commit 7b4c36f compressed are restored to the bit: see tests/runs/saved_by_7b4c36f/README.md."""

from pathlib import Path

import numpy as np
import pytest
from saved_files import unpack_saved_files

from flax_vae import load_run
from flax_vae.compression import decompress
from flax_vae.data.sources.fashion_mnist import from_subset
from flax_vae.runs.run import run_data

pytestmark = [pytest.mark.optimized, pytest.mark.usefixtures("unchecked_types", "with_optimizations")]


@pytest.fixture(autouse=True)
def current_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    unpack_saved_files(tmp_path)
    monkeypatch.chdir(tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("file", "model"), [("members", "members/seed-0"), pytest.param("hierarchy", "hierarchy", marks=pytest.mark.slow)]
)
def test_compressed_images_are_restored(file: str, model: str) -> None:
    run = load_run(model)
    test = run_data(run).test
    images, labels, _ = decompress(run.model, run.params, Path(f"{file}.fvae").read_bytes())
    np.testing.assert_array_equal(images, test.x)
    if run.class_names:
        np.testing.assert_array_equal(labels, test.labels)


@pytest.mark.slow
def test_images_compressed_by_a_pretrained_model_are_restored() -> None:
    run, expected = load_run("pretrained:mlp"), from_subset("test", "for tests").x[:20]
    images, *_ = decompress(run.model, run.params, Path("mlp.fvae").read_bytes())
    np.testing.assert_array_equal(images, np.where(expected > 127, 255, 0))
