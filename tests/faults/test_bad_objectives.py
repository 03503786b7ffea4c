"""A user's objective that does not work is refused with a reason; it never ends the program with success."""

import re
import signal
import sys
from pathlib import Path

import pytest
from programs import together
from refusals import assert_refused

from flax_vae.cli.train import train

OBJECTIVES = """
import jax
import jax.numpy as jnp

def integer(model, x, key, step):
    return jnp.zeros(len(x), jnp.int32), {}

def counting(model, x, key, step):
    return -model.infer(x, key).likelihood.log_prob(x).mean(0), {"ones": (x > 0.5).sum((1, 2, 3))}

class Weighted:
    def __init__(self, weight):
        if weight < 0:
            raise ValueError("the weight is negative")

    def __call__(self, model, x, key, step): ...

class Silent: ...

def greedy(model, x, key, step):
    largest = jnp.sort(jax.random.normal(key, (2**21, 2**20)), 0)[-1, -1]
    return counting(model, x, key, step)[0] + 0 * jax.lax.stop_gradient(largest), {}
"""


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("sys:nope", "sys has no function or class nope"),
        ("builtins:max", "it is called as max(model, x, key, step), but no signature found"),
        ("..shapes:f", "or write my_module:my_objective"),
        ("a..b:f", "or write my_module:my_objective"),
        ("ending:f", "ending calls sys.exit when it is imported"),
        ("odd_losses:integer", "objective integer returned loss of type int32: return floats"),
        ("odd_losses:counting", "objective counting returned ones of type int32: return floats"),
        ("odd_losses:Weighted", "missing a required argument: 'weight'; the signature is"),
        ("odd_losses:Weighted(weight=-1.0)", "(weight=-1.0): the weight is negative"),
        ("odd_losses:Silent", "is not a callable object"),
    ],
)
def test_the_reason_is_given(
    written: str,
    message: str,
    few_images: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "odd_losses.py").write_text(OBJECTIVES)
    (tmp_path / "ending.py").write_text("raise SystemExit(0)")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.delitem(sys.modules, "odd_losses", raising=False)
    words = ["--preset", "tutorial_dense", "--likelihood", "normal", "--dataset", str(few_images), "--out", "run"]
    assert_refused(train, [*words, "--objective", written], message, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, pytest.param(2, marks=pytest.mark.slow)])
def test_an_objective_that_exceeds_the_memory_is_reported(processes: int, few_images: Path, tmp_path: Path) -> None:
    (tmp_path / "odd_losses.py").write_text(OBJECTIVES)
    words = ["--preset", "tutorial_dense", "--dataset", few_images, "--objective", "odd_losses:greedy", "--out", "run"]
    (code, _, err), *others = together(processes, "train.py", *words, cwd=tmp_path)
    assert code == 2, err
    assert re.search(r"\nerror: Out of memory: .* bytes\. To train with less, .* --batch-size\.\n$", err)
    for code, _, err in others:  # JAX itself ends those that are later than the first
        assert code == 2 or (code in (1, -signal.SIGABRT) and "another task died" in err), err
        assert "Traceback" not in err
