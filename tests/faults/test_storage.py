"""A full disk, a read-only or vanished directory: reported in one line, and nothing intact is lost."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from programs import call, start, words_of
from run_directories import assert_same_run

from flax_vae import Config, Run, load_run

pytestmark = pytest.mark.slow


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system in memory, which tests resize and make read-only."""
    path = tmp_path / "disk"
    path.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", path], check=False, capture_output=True
    ).returncode:
        pytest.skip("no permission to mount a file system here")
    yield path
    subprocess.run(["umount", "--lazy", path], check=True)


def remount(disk: Path, options: str) -> None:
    subprocess.run(["mount", "-o", f"remount,{options}", disk], check=True)


def last_line(err: str) -> str:
    """Return the error, which is the last line."""
    *_, last = err.splitlines()
    assert last.startswith("error: ")
    assert "Traceback" not in err
    return last


def test_a_full_disk_loses_no_checkpoint(run: Run, config: Config, disk: Path) -> None:
    """Once there is room, the training resumes and ends as the undisturbed one."""
    filler = disk / "filler"
    filler.write_bytes(bytes(1_600_000))
    code, _, err = call("train.py", *words_of(config), "--out", disk / "run", cwd=disk)
    assert code == 2
    assert "No space left on device" in last_line(err)
    assert "--resume" in last_line(err)
    assert not list((disk / "run").rglob("*tmp*"))
    steps = [path.name for path in (disk / "run" / "checkpoints").iterdir()]
    remount(disk, "size=50m")
    if not steps:
        shutil.rmtree(disk / "run")
    words = ["--resume", disk / "run"] if steps else [*words_of(config), "--out", disk / "run"]
    code, _, err = call("train.py", *words, cwd=disk)
    assert code == 0, err
    assert_same_run(load_run(disk / "run"), run)


def test_a_read_only_run_can_be_sampled_but_not_trained(copy: Path, disk: Path, tmp_path: Path) -> None:
    remount(disk, "size=50m")
    directory = shutil.copytree(copy, disk / "run")
    remount(disk, "ro")
    for words in (["--resume", directory], ["--out", disk / "new", "--epochs", "1"]):
        code, _, err = call("train.py", *words, cwd=tmp_path)
        assert code == 2
        assert "Read-only file system" in last_line(err)
    assert call("sample.py", directory, cwd=tmp_path)[0] == 0
    code, _, err = call("sample.py", directory, "--out", disk / "samples.png", cwd=tmp_path)
    assert code == 2
    assert "Read-only file system" in last_line(err)


def test_a_vanished_run_directory_is_reported(config: Config, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = start("train.py", *words_of(config), "--out", out, "--epochs", "2000", cwd=tmp_path)
    end = time.monotonic() + 60
    while not any(path.name.isdecimal() for path in out.glob("checkpoints/*")):
        assert time.monotonic() < end
        time.sleep(0.05)
    shutil.move(out, tmp_path / "elsewhere")
    _, err = process.communicate(timeout=60)
    assert process.returncode == 2
    assert str(out) in last_line(err)
    assert "not a run directory" in last_line(err)
    assert load_run(tmp_path / "elsewhere").step > 0
