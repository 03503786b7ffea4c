"""Exit codes and error messages of the command line."""

import subprocess
import sys
from pathlib import Path

import pytest
from saved_files import unpack_saved_files

from flax_vae.cli.exits import run_command
from flax_vae.system.errors import UserError


def test_an_error_names_flags_where_python_names_arguments(capsys: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        raise UserError("`learning_rate` must be above 0, not -1: `A b` and `run.json` are no names of arguments.")

    assert run_command(lambda: fail) == 2
    message = "error: --learning-rate must be above 0, not -1: `A b` and `run.json` are no names of arguments.\n"
    assert capsys.readouterr().err == message


COMMANDS = [
    "train --preset tutorial_dense --dataset {data} --out run",
    "sample pretrained:mlp",
    "evaluate pretrained:mlp",
    "explore pretrained:mlp",
    "export pretrained:mlp --format safetensors --out exported",
    "compress pretrained:mlp",
    "decompress pretrained:mlp mlp.fvae --out back.npy",
]
RUN = """
import sys
from flax_vae.cli.main import main
for command in sys.argv[2:]:
    print(main([word.format(data=sys.argv[1]) for word in command.split()]))
"""


@pytest.mark.parametrize("platforms", ["cuda", "nonsense"])
def test_a_missing_device_is_one_line(
    platforms: str, few_images: Path, tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    """Every command that computes, for both of JAX's errors."""
    unpack_saved_files(tmp_path)
    before = sorted(tmp_path.iterdir())
    environment = clean_environment | {"JAX_PLATFORMS": platforms, "CUDA_VISIBLE_DEVICES": "-1"}
    words = [sys.executable, "-c", RUN, str(few_images), *COMMANDS]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2"] * len(COMMANDS), done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == len(COMMANDS), done.stderr
    for line in lines:
        assert line.startswith(f"error: JAX_PLATFORMS={platforms}: ")
        assert line.endswith("Set JAX_PLATFORMS=cpu, or leave it out.")
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_an_assertion_of_another_kind_keeps_its_traceback() -> None:
    def fail() -> None:
        raise AssertionError

    with pytest.raises(AssertionError):
        run_command(lambda: fail)
