"""Damaged files of a run directory are reported by name, and intact ones are used instead."""

import json
import os
import shutil
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import pytest
from run_directories import assert_same_run

from flax_vae import Config, Run, UserError, compare, fit_many, load_run, resume, resume_many
from flax_vae.fitting.build import build
from flax_vae.fitting.members import Member, restore_members
from flax_vae.fitting.training import Training
from flax_vae.runs.directory import RunDirectory

Damage = Callable[[Path], object]


@pytest.fixture(scope="module", autouse=True)
def no_pictures() -> Iterator[None]:
    """Also for the run that all tests share: drawing pictures takes longer than the training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flax_vae.fitting.fit.draw_pictures", lambda *_: None)
        yield


PARAMS, OPTIMIZER, DESCRIPTION = "params.safetensors", "optimizer.safetensors", "checkpoint.json"


def flip_bit(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def flips(name: str, share: float) -> Damage:
    """Flip one bit of a file, at a share of its length."""
    return lambda checkpoint: flip_bit(path := checkpoint / name, int(share * 8 * path.stat().st_size))


DAMAGES: dict[str, Damage] = {
    "a bit of the parameters": flips(PARAMS, 0.6),
    "a bit of the optimiser": flips(OPTIMIZER, 0.3),
    "a bit of the names": flips(PARAMS, 0.001),
    "an array file truncated": lambda c: os.truncate(c / PARAMS, 1000),
    "an array file empty": lambda c: os.truncate(c / PARAMS, 0),
    "an array file missing": lambda c: (c / OPTIMIZER).unlink(),
    "the checksums missing": lambda c: (c / DESCRIPTION).unlink(),
    "a checksum missing": lambda c: (c / DESCRIPTION).write_text('{"sha256": {}, "types": {}}'),
    "the checksums truncated": lambda c: (c / DESCRIPTION).write_text('{"sha'),
    "nothing left": lambda c: [shutil.rmtree(path) if path.is_dir() else path.unlink() for path in c.iterdir()],
}


@pytest.fixture(scope="module")
def training(config: Config) -> Training:
    return build(config)


@pytest.fixture(scope="module")
def previous(run: Run, training: Training, tmp_path_factory: pytest.TempPathFactory) -> Member:
    """The training at step 24, from a directory in which that checkpoint is the last one."""
    directory = shutil.copytree(run.directory, tmp_path_factory.mktemp("runs") / "previous")
    shutil.rmtree(directory / "checkpoints" / "36")
    (member,) = restore_members({RunDirectory(directory): training})
    return member


@pytest.mark.quick(2)
@pytest.mark.parametrize("damage", DAMAGES.values(), ids=DAMAGES.keys())
@pytest.mark.usefixtures("unchecked_types")
def test_a_damaged_checkpoint_is_reported_and_training_starts_from_the_one_before(
    training: Training, previous: Member, copy: Path, damage: Damage, capsys: pytest.CaptureFixture[str]
) -> None:
    damage(copy / "checkpoints" / "36")
    (member,) = restore_members({RunDirectory(copy): training})
    lines = [line for line in capsys.readouterr().err.splitlines() if "WARNING" in line]
    assert len(lines) == 1
    assert f"checkpoint {copy / 'checkpoints' / '36'} is damaged" in lines[0]
    assert "It was renamed to 36.damaged" in lines[0]
    assert (copy / "checkpoints" / "36.damaged").is_dir()
    assert member.state.step == 24
    jax.tree.map(np.testing.assert_array_equal, *((m.state.replace(key=()), m.totals) for m in (member, previous)))
    assert member.directory.metrics() == previous.directory.metrics()


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_types")
def test_a_training_resumed_before_a_damaged_checkpoint_ends_as_the_undisturbed_one(run: Run, copy: Path) -> None:
    DAMAGES["a bit of the optimiser"](copy / "checkpoints" / "36")
    assert_same_run(resume(copy), run)


@pytest.mark.quick(8)
@pytest.mark.parametrize("share", np.linspace(0.02, 0.98, 16))
@pytest.mark.usefixtures("unchecked_types")
def test_damaged_parameters_are_never_loaded_silently(
    run: Run, copy: Path, share: float, capsys: pytest.CaptureFixture[str]
) -> None:
    flips(PARAMS, share)(copy / "checkpoints" / str(run.step))
    loaded = load_run(copy)
    err = capsys.readouterr().err
    assert f"checkpoint {copy / 'checkpoints' / str(run.step)} is damaged" in err
    assert "the parameters are from the checkpoint of step 24" in err
    assert loaded.step == 24


@pytest.mark.usefixtures("unchecked_types")
def test_without_an_intact_checkpoint_nothing_is_loaded_or_resumed(copy: Path) -> None:
    for checkpoint in (copy / "checkpoints").iterdir():
        flips(PARAMS, 0.5)(checkpoint)
    with pytest.raises(UserError, match="all checkpoints are damaged"):
        load_run(copy)
    with pytest.raises(UserError, match=r"params does not have the checksum with which .* It is the only one"):
        resume(copy)


@pytest.mark.slow
@pytest.mark.usefixtures("unchecked_types")
def test_a_training_killed_before_its_first_checkpoint_restarts(run: Run, copy: Path) -> None:
    shutil.rmtree(copy / "checkpoints")
    with pytest.raises(UserError, match="no checkpoint: checkpoints were moved or deleted"):
        resume(copy)
    first, *_ = (copy / "metrics.jsonl").read_text().splitlines()
    (copy / "metrics.jsonl").write_text(first + "\n")
    with pytest.raises(UserError, match="has no checkpoint, since no epoch is finished: run flax-vae train --resume"):
        load_run(copy)
    assert_same_run(resume(copy), run)


@pytest.mark.parametrize(
    ("damage", "step", "warning"),
    [
        (lambda d: (d / "metrics.jsonl").unlink(), 36, "checkpoint of step 36: no epoch is finished"),
        (lambda d: shutil.rmtree(d / "checkpoints" / "24"), 36, "the best one, step 24, is missing"),
        (lambda d: shutil.rmtree(d / "checkpoints" / "36"), 24, ""),
    ],
)
def test_a_warning_says_if_the_parameters_are_not_the_best(
    copy: Path, damage: Damage, step: int, warning: str, capsys: pytest.CaptureFixture[str]
) -> None:
    records = [json.loads(line) for line in (copy / "metrics.jsonl").read_text().splitlines()]
    records[1]["test_loss"] = 0.0  # as if the second epoch had been the best
    (copy / "metrics.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    damage(copy)
    assert load_run(copy).step == step
    err = capsys.readouterr().err
    assert err.count("\n") == bool(warning)
    assert warning in err


@pytest.mark.slow
def test_members_resume_from_the_last_step_that_is_intact_in_all(
    config: Config, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    configs = [replace(config, seed=seed) for seed in (0, 1)]
    runs = fit_many(configs, tmp_path / "undisturbed")
    copy = shutil.copytree(tmp_path / "undisturbed", tmp_path / "copy")
    flips(PARAMS, 0.5)(copy / "seed-1" / "checkpoints" / "36")
    for resumed, expected in zip(resume_many(copy), runs, strict=True):
        assert_same_run(resumed, expected)
    assert capsys.readouterr().err.count("36.damaged") == 1


def junk(name: str, content: bytes) -> Damage:
    return lambda directory: (directory / name).write_bytes(content)


RECORD = b'{"epoch": 1, "step": 12, "test_loss": 1.0}\n'


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metrics.jsonl", b"[1]\n" + RECORD),
        ("metrics.jsonl", RECORD + b"\xff\xfe\n"),
        ("metrics.jsonl", RECORD.replace(b"12", b'"12"')),
        ("metrics.jsonl", RECORD.replace(b"test_loss", b"best_loss")),
        ("examples.npy", b""),
        ("examples.npy", b"\x93NUMPY\x01\x00\x10\x00{}"),
        ("provenance.json", b""),
        ("provenance.json", b'{"data": 7}'),
        ("provenance.json", None),
        ("config.json", b'{"format": 2, '),
        ("config.json", b"\xff"),
        ("config.json", None),
    ],
)
@pytest.mark.usefixtures("unchecked_types")
def test_a_damaged_file_is_reported_by_name(copy: Path, name: str, content: bytes | None) -> None:
    (copy / name).unlink() if content is None else (copy / name).write_bytes(content)
    with pytest.raises(UserError, match=name) as error:
        load_run(copy)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("content", [b"", b"[]", b'{"step"', b"\xff"])
@pytest.mark.usefixtures("unchecked_types")
def test_a_damaged_evaluation_is_reported_by_name(copy: Path, content: bytes) -> None:
    (copy / "evaluation.json").write_bytes(content)
    with pytest.raises(UserError, match=r"evaluation\.json cannot be read"):
        compare([copy], copy / "comparison.png")


@pytest.mark.usefixtures("unchecked_types")
def test_a_truncated_last_line_is_not_damage(run: Run, copy: Path) -> None:
    with (copy / "metrics.jsonl").open("a") as file:
        file.write('{"epoch": 4, "st')
    assert load_run(copy).metrics == run.metrics


def edit_config(directory: Path, **changes: object) -> None:
    content = json.loads((directory / "config.json").read_text())
    (directory / "config.json").write_text(json.dumps(content | changes))


@pytest.mark.usefixtures("unchecked_types")
def test_checkpoints_of_another_model_are_not_called_damaged(copy: Path) -> None:
    edit_config(copy, latent_dim=3)
    with pytest.raises(UserError, match=r"stored as \(2, 128\), but the model expects \(3, 128\)"):
        load_run(copy)


def test_loading_executes_nothing_named_in_the_directory(
    copy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "hostile.py").write_text("raise SystemExit('executed')")
    edit_config(copy, objective="hostile:objective", beta=None)
    pickled = np.array([print], dtype=object)
    monkeypatch.chdir(tmp_path)
    load_run(copy)
    with pytest.raises(UserError, match="pass `objective` hostile:objective"):
        resume(copy)
    np.save(copy / "examples.npy", pickled, allow_pickle=True)
    with pytest.raises(UserError, match=r"examples\.npy cannot be read"):
        load_run(copy)
