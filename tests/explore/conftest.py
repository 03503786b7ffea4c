"""Programs and pages run in a browser, as users open them."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from explored import Explored, Make, Read, Reader, explore_model
from selenium import webdriver

from flax_vae.explore import ENGINE

Run = Callable[..., list[np.ndarray]]
PAGE = """<!doctype html>
<meta charset="utf-8">
<script>{engine}</script>
<script type="application/json" id="program">{program}</script>
<script>const functions = engine.open(JSON.parse(document.getElementById("program").textContent));</script>
"""
CALL = "return functions[arguments[0]](arguments[1].map((input) => Float32Array.from(input))).map((o) => Array.from(o))"


@pytest.fixture(scope="session")
def open_page(browser: webdriver.Chrome, tmp_path_factory: pytest.TempPathFactory) -> Callable[[dict[str, Any]], Run]:
    """Open a program as a page; the result calls the program's functions by name.

    The page must not log anything.
    """
    folder, scripts = tmp_path_factory.mktemp("pages"), Path(ENGINE).read_text()

    def opened(program: dict[str, Any]) -> Run:
        path = folder / "page.html"
        path.write_text(PAGE.format(engine=scripts, program=json.dumps(program)))
        browser.get(path.as_uri())
        shapes = {name: [shape for _, shape in graph["outputs"]] for name, graph in program["graphs"].items()}

        def run(name: str, *inputs: Any) -> list[np.ndarray]:
            outputs = browser.execute_script(CALL, name, [np.ravel(value).tolist() for value in inputs])
            assert browser.get_log("browser") == []
            return [np.reshape(out, shape) for out, shape in zip(outputs, shapes[name], strict=True)]

        return run

    return opened


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Make pages by name, each once."""
    folder, pages = tmp_path_factory.mktemp("explored"), {}

    def make_once(name: str) -> Explored:
        if name not in pages:
            pages[name] = explore_model(name, folder / f"{name}.html")
        return pages[name]

    return make_once


@pytest.fixture
def read(browser: webdriver.Chrome, make: Make) -> Iterator[Read]:
    """Open a page in a window of a size; afterwards it must not have logged anything or used the network."""
    opened = []

    def open_reader(name: str, width: int = 1440, height: int = 1300, touch: bool = False, **media: str) -> Reader:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": touch})
        features = [{"name": f"prefers-{k.replace('_', '-')}", "value": value} for k, value in media.items()]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        opened.append(Reader(browser, make(name)))
        return opened[-1]

    yield open_reader
    for reader in opened[-1:]:
        reader.quiet()
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
