"""Shared by all tests: caches, compilation, small data sets and a small training."""

import gc
import os
import shutil
import signal
import tempfile
from collections import Counter
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import jaxtyping
import numpy as np
import pytest

import flax_vae  # imports its modules only once their names are used

if TYPE_CHECKING:
    from selenium import webdriver

# A shell starts background jobs with SIGINT ignored, and the programs that tests start would inherit that.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Set before anything reads them, also for the programs that tests start. Tests use caches of their own, not the user's.
# Compilation takes most of the time. Code that takes longer to compile than to read is cached for the other workers,
# tests and programs of the session. It is compiled with few optimisations, by XLA's simpler code generator, and without
# references to lines of Python. JAX_DISABLE_MOST_OPTIMIZATIONS=0 compiles as for users; .ci/run sets it for the tests
# of numbers.
_CACHES = tempfile.mkdtemp(prefix="flax_vae_tests_")
os.environ["XDG_CACHE_HOME"] = _CACHES
if os.environ.pop("PYTHONDONTWRITEBYTECODE", ""):  # every program would compile all packages again
    os.environ["PYTHONPYCACHEPREFIX"] = f"{_CACHES}/bytecode"
os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = f"{_CACHES}/hypothesis"
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", f"{_CACHES}/jax")
os.environ["JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"] = "0.05"
os.environ["JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES"] = "-1"
os.environ["JAX_TRACEBACK_IN_LOCATIONS_LIMIT"] = "0"
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
_SIMPLE_CODE = "--xla_cpu_parallel_codegen_split_count=1 --xla_cpu_enable_concurrency_optimized_scheduler=false"
if tuple(map(int, version("jaxlib").split(".")[:2])) < (0, 11):  # later ones have one code generator
    _SIMPLE_CODE += " --xla_cpu_use_fusion_emitters=false"
_FLAGS = os.environ.get("XLA_FLAGS", "")
if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1" and _SIMPLE_CODE not in _FLAGS:
    os.environ["XLA_FLAGS"] = f"{_FLAGS} {_SIMPLE_CODE}".lstrip()
# Nearly all objects that tracing creates stay in use; searching them for garbage took a fifteenth of the time.
gc.set_threshold(50_000, 20, 20)


@pytest.hookimpl(tryfirst=True)  # before tests are selected by their marks
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark all but the first `n` cases of a test that has the mark `quick(n)` as slow."""
    cases: Counter[str] = Counter()
    for item in items:
        if quick := item.get_closest_marker("quick"):
            test = item.nodeid.partition("[")[0]
            cases[test] += 1
            if cases[test] > quick.args[0]:
                item.add_marker("slow")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Report that the default run omits tests."""
    if config.option.markexpr == "not slow":
        terminalreporter.write_line("Slow tests are left out. Run them with: pytest -m slow")


@pytest.fixture(scope="session")
def images() -> np.ndarray:
    """64 real Fashion-MNIST images, uint8 "64 28 28 1"."""
    from flax_vae.data.sources.fashion_mnist import from_subset

    return from_subset("train", "for tests").x[:64]


@pytest.fixture
def with_optimizations() -> Iterator[None]:
    """Compile with all optimisations, for tests that depend on how programs round."""
    import jax

    quick = jax.config.read("jax_disable_most_optimizations")
    jax.clear_caches()
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", quick)
    jax.clear_caches()


@pytest.fixture
def without_pictures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Omit the pictures of trainings in this process: drawing them takes longer than the training."""
    monkeypatch.setattr("flax_vae.fitting.fit.draw_pictures", lambda *_: None)


@pytest.fixture
def unchecked_types() -> Iterator[None]:
    """Disable the type checks of the import hook, so that wrong values reach the package's own checks."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def clean_environment() -> dict[str, str]:
    """Return the environment without settings of JAX, XLA and Python's output, as users have it."""
    settings = ("XLA_", "JAX_", "PYTHONUNBUFFERED")
    return {name: value for name, value in os.environ.items() if not name.startswith(settings)}


@pytest.fixture(autouse=True, scope="session")
def short_lessons() -> Iterator[None]:
    """Train classifiers for twenty short steps: without optimisations, convolutions are slow."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("flax_vae.metrics.classifier._MAX_DISPATCHES", 1)
        patch.setattr("flax_vae.metrics.classifier._BATCH", 60)
        yield


@pytest.fixture(scope="session")
def few_images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write 600 training and 100 test images of Fashion-MNIST with labels to a file, for short trainings."""
    from flax_vae.data.sources.fashion_mnist import from_subset

    train, test = (from_subset(split, "for tests") for split in ("train", "test"))
    path = tmp_path_factory.mktemp("data") / "few.npz"
    np.savez(
        path,
        x_train=train.x[:600],
        y_train=train.labels[:600],
        x_test=test.x[:100],
        y_test=test.labels[:100],
    )
    return path


@pytest.fixture(scope="module")
def run(config: "flax_vae.Config", tmp_path_factory: pytest.TempPathFactory) -> "flax_vae.Run":
    """Train with the `config` of the module, undisturbed."""
    return flax_vae.fit(config, tmp_path_factory.mktemp("runs") / "whole")


@pytest.fixture
def copy(run: "flax_vae.Run", tmp_path: Path) -> Path:
    """Copy the directory of `run`, for tests that damage it."""
    return shutil.copytree(run.directory, tmp_path / "copy")


@pytest.fixture(scope="session")
def browser() -> "Iterator[webdriver.Chrome]":
    """Start the installed Chromium, headless, for the session; it records console messages and is offline."""
    from selenium import webdriver

    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    driver = shutil.which("chromedriver")
    if not chromium or not driver:
        pytest.skip("needs chromium and chromedriver: apt-get install chromium chromium-driver")
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    chrome = webdriver.Chrome(options, webdriver.ChromeService(driver))
    chrome.execute_cdp_cmd("Network.enable", {})
    offline = {"offline": True, "latency": 0, "downloadThroughput": 0, "uploadThroughput": 0}
    chrome.execute_cdp_cmd("Network.emulateNetworkConditions", offline)
    yield chrome
    chrome.quit()
