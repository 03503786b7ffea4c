"""Files that commands write: nothing that exists is replaced unasked."""

from pathlib import Path

import numpy as np
import pytest

from flax_vae.cli.main import main
from flax_vae.compression import Header, container

NOTHING = "absent is not a run directory"
WRITERS = {
    "sample": ["sample", "absent", "-o", "mine.png"],
    "sample --npy": ["sample", "absent", "--npy", "mine.npy"],
    "evaluate": ["evaluate", "absent", "-o", "mine.json"],
    "compare": ["compare", "absent", "-o", "mine.png"],
    "explore": ["explore", "absent", "-o", "mine.html"],
    "compress": ["compress", "absent", "-o", "mine.fvae"],
    "compress to its default": ["compress", "absent"],
    "decompress to an array": ["decompress", "absent", "one.fvae", "-o", "mine.npy"],
    "decompress to a picture": ["decompress", "absent", "one.fvae", "-o", "mine.png"],
}
DIRECTORIES = {
    "train": ["train", "--dataset", "absent", "-o", "full"],
    "export": ["export", "absent", "--format", "safetensors", "-o", "full"],
    "prepare": ["prepare", "absent", "full"],
    "decompress": ["decompress", "absent", "one.fvae", "-o", "full"],
}
PICTURES = {
    "samples.png": ["sample", "absent"],
    "comparison.png": ["compare", "absent"],
    "explore.html": ["explore", "absent"],
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A directory with files of the user's, a directory that is not empty, and the header of a compressed image."""
    monkeypatch.chdir(tmp_path)
    header = Header("", "", "", (2, 2, 1), 2, 0, (1,), (0,), (), "")
    (tmp_path / "one.fvae").write_bytes(container.write(header, np.zeros(0, np.uint32)))
    for name in [*(f"mine.{kind}" for kind in ("png", "npy", "json", "html", "fvae")), "images.fvae", *PICTURES]:
        (tmp_path / name).write_text("mine")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    return tmp_path


def error_of(words: list[str], capsys: pytest.CaptureFixture[str]) -> str:
    """Return the one line of a refused command, which has changed no file."""
    files = {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()}
    assert main(words) == 2
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert {path: path.read_bytes() for path in Path().rglob("*") if path.is_file()} == files
    return error


@pytest.mark.parametrize("words", WRITERS.values(), ids=WRITERS)
def test_an_existing_file_is_refused_before_the_work(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """Every command that writes a file, with the only way out."""
    assert "already exists: name another file, or replace this one with --overwrite" in error_of(words, capsys)
    assert NOTHING in error_of([*words, "--overwrite"], capsys)


@pytest.mark.parametrize("words", DIRECTORIES.values(), ids=DIRECTORIES)
def test_a_directory_has_to_be_new_or_empty(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(words, capsys)
    assert "full is not empty: choose another directory" in error or "full already exists. Name a new" in error


@pytest.mark.parametrize("words", PICTURES.values(), ids=PICTURES)
def test_a_picture_of_the_default_name_is_drawn_again(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert NOTHING in error_of(words, capsys)


@pytest.mark.parametrize("words", [*WRITERS.values(), *PICTURES.values()], ids=[*WRITERS, *PICTURES])
def test_what_is_not_a_file_is_never_replaced(words: list[str], home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A directory of that name stands for devices such as /dev/null."""
    for path in home.iterdir():
        if path.is_file() and path.name != "one.fvae":
            path.unlink()
            path.mkdir()
    assert "exists and is not a file" in error_of([*words, "--overwrite"], capsys)


def test_two_outputs_are_two_files(capsys: pytest.CaptureFixture[str]) -> None:
    error = error_of(["sample", "absent", "--out", "new.png", "--npy", "new.png"], capsys)
    assert "--npy new.png: name a file that ends in .npy" in error
