"""Examples from arrays: they train, resume and are evaluated as those of a file, wherever the run is moved.

The kind of fault is a run that finds other images than it was trained on, or none.
"""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from flax_vae import Config, UserError, fit, fit_many, load_images, resume, resume_many
from flax_vae.data import Examples, from_arrays, write_arrays
from flax_vae.runs.run import run_data

pytestmark = pytest.mark.usefixtures("without_pictures")
GREY = np.random.default_rng(0).integers(0, 256, (40, 8, 6), np.uint8)
VECTORS = np.random.default_rng(1).normal(size=(40, 5))
IMAGES = {"n h w": GREY, "c": GREY[..., None], "float": GREY / 255, "bool": GREY > 127, "vectors": VECTORS} | {
    "missing": np.where(VECTORS > 1, np.nan, VECTORS),
    "counts": GREY[:, 0],
}


def written(part: Examples) -> Any:
    return [part.names[label] for label in part.labels] if part.names else part.labels


@pytest.mark.parametrize("images", IMAGES.values(), ids=IMAGES)
@pytest.mark.parametrize("labels", [None, np.arange(40) % 3, [f"class {i % 3}" for i in range(40)]])
def test_a_file_holds_the_same_sets(images: np.ndarray, labels: Any, tmp_path: Path) -> None:
    parts = from_arrays(images, labels)
    write_arrays(tmp_path / "data.npz", *parts)
    assert [len(part.x) for part in parts] == [36, 4]
    for part, again in zip(from_arrays(parts[0]), from_arrays(parts[0].x, written(parts[0])), strict=True):
        np.testing.assert_array_equal(part.labels, again.labels)
        assert (part.names, part.provenance) == (again.names, again.provenance)
    for part, split in zip(parts, ("train", "test"), strict=True):
        read = load_images(tmp_path / "data.npz", split)
        np.testing.assert_array_equal(read.x, part.x)
        np.testing.assert_array_equal(read.labels, part.labels)
        assert read.names == part.names
        assert read.provenance["sha256"] == part.provenance["sha256"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (
            {"data": (GREY, np.arange(40))},
            r"`data`: view 1 is an array of shape \(40,\); .* Classes are passed as `labels`",
        ),
        ({"data": "fashion_mnist"}, r"`data` is a str; .* The name or the path of a data set goes into Config\("),
        ({"data": {"x": GREY}}, "`preset` gated_mlp takes one array, not views: pass a `model`"),
        ({"data": GREY.astype(np.int32)}, "`data`: images of type int32, whose scale is unknown"),
        ({"data": GREY, "labels": [1, 2]}, "`data`: labels of shape .* for 40 images"),
        *(
            (
                {"data": GREY, "labels": labels},
                r"`data`: 3 of 40 labels are missing .*, or pass the label as a view of x",
            )
            for labels in (
                [-1] * 3 + [0] * 37,
                [np.nan] * 3 + [0] * 37,
                [None] * 3 + ["a"] * 37,
                np.ma.array([0] * 40, mask=[True] * 3 + [False] * 37),
            )
        ),
        ({"data": GREY[0, 0]}, "`data`: images of shape"),
        ({"labels": [1, 2]}, "`labels` has no effect without `data`"),
        ({"data": GREY, "config": Config(dataset="sprites")}, "`dataset` sprites has no effect beside `data`"),
    ],
)
def test_what_is_not_a_data_set_is_refused(given: dict[str, Any], message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        fit(out=tmp_path / "run", **given)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_an_ensemble_on_arrays_is_moved_and_resumed(tmp_path: Path) -> None:
    """All members find the one file of their images."""
    base = Config(preset="tutorial_dense(features=(20,))", batch_size=12, epochs=1, conditional=True)
    configs = [replace(base, seed=seed) for seed in (0, 1)]
    fit_many(configs, tmp_path / "runs", data=GREY, labels=np.arange(40) % 3)
    assert [path.name for path in tmp_path.glob("runs/**/data.npz")] == ["data.npz"]
    resumed = resume_many(shutil.move(tmp_path / "runs", tmp_path / "moved"), epochs=2)
    assert [run.step for run in resumed] == [6, 6]
    np.testing.assert_array_equal(run_data(resumed[1]).train.x, from_arrays(GREY)[0].x)


@pytest.mark.slow
def test_a_run_on_arrays_is_moved_and_resumed_and_finds_its_images(tmp_path: Path) -> None:
    config = Config(preset="tutorial_dense(features=(20,))", batch_size=12, epochs=1, conditional=True)
    run = fit(config, tmp_path / "run", data=GREY, labels=np.arange(40) % 3)
    moved = shutil.move(run.directory, tmp_path / "moved")
    opened = resume(moved, epochs=2)
    assert opened.step == 6
    assert opened.class_names == ("0", "1", "2")
    for part, given in zip((run_data(opened).train, run_data(opened).test), from_arrays(GREY), strict=True):
        np.testing.assert_array_equal(part.x, given.x)
    assert opened.sample(3, labels=2).shape == (3, 8, 6, 1)
