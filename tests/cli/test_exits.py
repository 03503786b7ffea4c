"""Exit codes and error messages of the command line."""

import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import jax
import pytest
import tyro
from saved_files import unpack_saved_files

import flax_vae
from flax_vae.cli.arguments import RunPath
from flax_vae.cli.exits import run_command
from flax_vae.cli.main import main
from flax_vae.system.errors import UserError


@dataclass(frozen=True)
class Group:
    """Flags of a command that are shown together."""

    learning_rate: float = 1.0
    label: str = ""
    preset: str = ""


@dataclass(frozen=True)
class Failing:
    """A command that fails."""

    run: RunPath
    message: str
    objective: tyro.conf.OmitArgPrefixes[Group] = field(default_factory=Group)

    def __call__(self) -> None:
        """Fail."""
        raise UserError(self.message)


@pytest.mark.parametrize(
    ("message", "shown"),
    [
        ("`learning_rate` must be above 0", "--learning-rate must be above 0"),
        ("`labels` and `model`", "--label and --preset"),
        ("`A b`, `run.json`, `run`, `objective` and `mask`", "`A b`, `run.json`, `run`, `objective` and `mask`"),
    ],
)
def test_an_error_names_flags_where_python_names_arguments(
    message: str, shown: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """A name in backquotes becomes a flag only if the command has a flag of that name."""
    assert run_command(lambda: Failing(Path("run"), message), Failing) == 2
    assert capsys.readouterr().err == f"error: {shown}\n"


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

from functools import partial
import jax, numpy as np
from flax_vae import *
images, model = np.zeros((20, 8, 8, 1), np.uint8), tutorial_dense((8, 8, 1))
key = jax.eval_shape(jax.random.key, 0)
shapes = jax.eval_shape(partial(init, model, shape=(8, 8, 1)), key)
params = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
calls = [partial(function, model, params, images) for function in (encode, compress)]
calls += [partial(fit, Config(preset="tutorial_dense"), "fitted", data=images)]
calls += [partial(save_run, "saved", params, {"loss": 1.0}, Config(), model=model)]
calls += [partial(function, "pretrained:mlp") for function in (load_run, evaluate)]
for call in calls:
    try:
        call()
    except UserError as error:
        print(2)
        print("error:", error, file=sys.stderr)
"""
CALLS = 6


@pytest.mark.quick(1)
@pytest.mark.parametrize("platforms", ["cuda", "nonsense"])
def test_a_missing_device_is_one_line(
    platforms: str, few_images: Path, tmp_path: Path, clean_environment: dict[str, str]
) -> None:
    """Every command and every function that computes, for both of JAX's errors."""
    unpack_saved_files(tmp_path)
    before = sorted(tmp_path.iterdir())
    environment = clean_environment | {"JAX_PLATFORMS": platforms, "CUDA_VISIBLE_DEVICES": "-1"}
    words = [sys.executable, "-c", RUN, str(few_images), *COMMANDS]
    done = subprocess.run(words, cwd=tmp_path, env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["2"] * (len(COMMANDS) + CALLS), done.stderr
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == len(COMMANDS) + CALLS, done.stderr
    for line in lines:
        assert line.startswith(f"error: JAX_PLATFORMS={platforms}: ")
        assert line.endswith("Set JAX_PLATFORMS=cpu, or leave it out.")
    assert "Traceback" not in done.stderr
    assert sorted(tmp_path.iterdir()) == before


def test_the_program_alone_shows_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 0
    out = capsys.readouterr().out
    assert out.count("flax-vae ") == 10  # nine commands, and the one to begin with
    assert max(map(len, out.splitlines())) <= 80


def test_the_program_names_its_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith(f"flax_vae {flax_vae.__version__} (jax {jax.__version__}, ")


@pytest.mark.parametrize(
    ("command", "advice"), [("trian", "did you mean train?"), ("figures", "the commands are train, prepare, ")]
)
def test_a_command_that_does_not_exist(command: str, advice: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--epochs", "3"]) == 2
    assert capsys.readouterr().err.startswith(f"error: flax-vae has no command {command}; {advice}")
