"""What the tests share: a cache of their own, and a few real images."""

import os
import shutil
import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

# Tests that run in the background may ignore SIGINT, and so would the programs that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Set before anything asks for them, so that no test reads or writes the user's caches. Many tests, and the programs
# they start, compile the same functions: compilations are kept for the session, and shared by its workers.
_CACHES = tempfile.mkdtemp(prefix="flax_vae_tests_")
os.environ["XDG_CACHE_HOME"] = _CACHES
os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = f"{_CACHES}/hypothesis"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{_CACHES}/jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.1"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
import jax  # noqa: E402
import jaxtyping  # noqa: E402

from flax_vae import Config, Run, fit, use_machine  # noqa: E402
from flax_vae.data.sources.fashion_mnist import from_subset  # noqa: E402

use_machine()  # as the programs do: it leaves the cache above, and sets what jaxlib needs, also for programs they start


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Name what the default run leaves out."""
    if config.option.markexpr == "not slow":
        files = [path for path in Path(__file__).parent.rglob("test_*.py") if "pytest.mark.slow" in path.read_text()]
        names = ", ".join(sorted(str(path.relative_to(config.rootpath)) for path in files))
        terminalreporter.write_line(f"Slow tests are left out, in {names}. They run by: pytest -m slow")


@pytest.fixture(autouse=True, scope="module")
def compiled_as_for_users(request: pytest.FixtureRequest) -> Iterator[None]:
    """All that is compared with an oracle is compiled as users have it.

    Compiling takes most of the tests' time. So modules that say `pytestmark = pytest.mark.quick_compile`, whose tests
    are of plumbing, files, messages, shapes, the same bits twice, leave out most optimisations. The programs that they
    start do not.
    """
    if request.node.get_closest_marker("quick_compile"):
        _compile(quickly=True)
        yield
        _compile(quickly=False)
    else:
        yield


def _compile(quickly: bool) -> None:
    jax.clear_caches()  # of what was compiled the other way
    jax.config.update("jax_disable_most_optimizations", quickly)


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """64 real Fashion-MNIST images, uint8 "64 28 28 1"."""
    return from_subset("train", "for tests").images[:64]


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings in this process draw nothing: compiling and drawing five pictures takes longer than they do."""
    monkeypatch.setattr("flax_vae.fitting.fit.draw_pictures", lambda *_: None)


@pytest.fixture
def unchecked_types() -> Iterator[None]:
    """As users run it: without the checks of types that tests have, which would come before the package's own."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def clean_environment() -> dict[str, str]:
    """Without what this file and the user set for JAX."""
    return {name: value for name, value in os.environ.items() if not name.startswith(("XLA_", "JAX_"))}


@pytest.fixture(autouse=True, scope="session")
def short_lessons() -> Iterator[None]:
    """Classifiers learn for twenty short steps: where compilation is quick, convolutions are slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flax_vae.metrics.classifier._MAX_DISPATCHES", 1)
        patch.setattr("flax_vae.metrics.classifier._BATCH", 60)
        yield


@pytest.fixture(scope="session")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file of 600 training and 100 test images of Fashion-MNIST with labels, for trainings of seconds."""
    train, test = (from_subset(split, "for tests") for split in ("train", "test"))
    path = tmp_path_factory.mktemp("data") / "few.npz"
    np.savez(
        path,
        x_train=train.images[:600],
        y_train=train.labels[:600],
        x_test=test.images[:100],
        y_test=test.labels[:100],
    )
    return path


@pytest.fixture(scope="module")
def run(config: Config, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """A training by the `config` of a module, which was never disturbed."""
    return fit(config, tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture
def copy(run: Run, tmp_path: Path) -> Path:
    """Its directory, to do harm to."""
    return shutil.copytree(run.directory, tmp_path / "copy")
