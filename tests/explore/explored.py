"""A page of `flax_vae.explore` as one who looks at it has it, and as what its model computes."""

import base64
import io
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import jax
import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from flax_vae.data import one_hot
from flax_vae.explore import Functions


@dataclass(frozen=True)
class Made:
    """A page, and the model that it is of."""

    path: Path
    content: dict[str, Any]
    functions: Functions
    labels: np.ndarray

    @property
    def latents(self) -> dict[str, Any]:
        return self.content["latents"]

    def context(self, label: int) -> tuple[np.ndarray, ...]:
        return (one_hot([label], self.content["context"]),) if self.content["context"] else ()

    def point(self, i: int) -> np.ndarray:
        """The posterior mean of a test image, as the page has it."""
        numbers = np.frombuffer(base64.b64decode(self.latents["points"]["weights"]), "<f2")
        return numbers.reshape(-1, self.latents["size"])[i].astype(np.float32)

    def decoded(self, z: np.ndarray, label: int = 0) -> np.ndarray:
        """Bytes of the image, "h w c"."""
        return np.rint(np.clip(self.decode(z[None], *self.context(label)), 0, 1) * 255)

    @cached_property
    def decode(self) -> Any:
        return jax.jit(self.functions.decode)

    @cached_property
    def encode(self) -> Any:
        return jax.jit(self.functions.encode)


class Reader:
    """What one sees in the browser, and does."""

    def __init__(self, browser: webdriver.Chrome, made: Made) -> None:
        self.browser, self.made = browser, made
        away = ActionBuilder(browser)
        away.pointer_action.move_to_location(1, 1)  # where the test before left it may be on the plane
        away.perform()
        browser.get(made.path.as_uri())
        self.until(lambda: self.text("test-note") != "Click a point of the plane.")
        self.settle()

    def __call__(self, name: str) -> WebElement:
        return self.browser.find_element(By.ID, name)

    def text(self, name: str) -> str:
        return self(name).get_attribute("textContent").replace("\u00a0", " ").replace("\N{MINUS SIGN}", "-")

    def until(self, done: Callable[[], bool], seconds: float = 5) -> None:
        end = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < end
            time.sleep(0.01)

    def settle(self, frames: int = 6) -> None:
        """Let some frames pass, in which the page does what was asked for."""
        script = "let n = arguments[0], end = arguments[1]; const f = () => n-- ? requestAnimationFrame(f) : end(); f()"
        self.browser.execute_async_script(script, frames)

    def pixels(self, *canvases: WebElement) -> list[np.ndarray]:
        """Bytes of red, green, blue and alpha, "height width 4" each."""
        urls = self.browser.execute_script("return [...arguments].map((canvas) => canvas.toDataURL())", *canvases)
        return [np.array(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))).astype(int) for url in urls]

    def image(self, name: str) -> np.ndarray:
        """What a canvas shows, "h w c"."""
        return self._channels(self.pixels(self(name)))[0]

    def every(self, root: str) -> np.ndarray:
        """The images of a row."""
        return np.stack(self._channels(self.pixels(*self(root).find_elements(By.CSS_SELECTOR, "canvas"))))

    def _channels(self, images: list[np.ndarray]) -> list[np.ndarray]:
        return [image[..., : 3 if self.made.content["shape"][2] == 3 else 1] for image in images]

    def plane(self) -> tuple[np.ndarray, np.ndarray, float, float]:
        """Width and height; the middle; half the width and half the height in units of z."""
        axes, size, pair = self.made.latents["axes"][0], self.made.latents["size"], self.pair()
        sides = [int(self("cloud").get_attribute(side)) for side in ("clientWidth", "clientHeight")]
        half = max(axes["reach"][i] for i in pair)
        middle = [axes["middle"][i] for i in pair] + [0] * (2 - len(pair))
        return np.array(sides), np.array(middle), half, half if size > 1 else 1.0

    def pair(self) -> list[int]:
        """The dimensions of the plane."""
        return [0] if self.made.latents["size"] == 1 else sorted(self.made.latents["axes"][0]["order"][:2])

    def offset(self, z: np.ndarray) -> tuple[int, int]:
        """Of a place on the plane from the middle of it, in pixels."""
        sides, middle, *halves = self.plane()
        place = np.zeros(2)
        place[: len(self.pair())] = z[self.pair()]
        return tuple(np.rint((place - middle) / halves * sides / 2 * [1, -1]).astype(int).tolist())

    def at(self, offset: tuple[int, int], z: np.ndarray) -> np.ndarray:
        """z, moved to a place on the plane."""
        (width, height), middle, half, tall = self.plane()
        # The pointer goes to whole pixels of the screen, from the middle of the element as it is rounded down.
        box = self.box("plane")
        x, y = (
            int(box[p] + box[s] / 2) + by - box[p] for p, s, by in zip("xy", ("width", "height"), offset, strict=True)
        )
        place = middle + np.array([2 * x / width - 1, 1 - 2 * y / height]) * [half, tall]
        moved = z.copy()
        moved[self.pair()] = place[: len(self.pair())]
        return moved

    def box(self, name: str) -> dict[str, float]:
        return self.browser.execute_script("return arguments[0].getBoundingClientRect().toJSON()", self(name))

    def position(self) -> np.ndarray:
        """z, of two dimensions."""
        return np.array([float(each) for each in self.text("position")[5:-1].split(", ")])

    def move(self, offset: tuple[int, int], click: bool = False) -> None:
        chain = ActionChains(self.browser, duration=0).move_to_element_with_offset(self("plane"), *offset)
        (chain.click() if click else chain).perform()
        self.settle()

    def keys(self, *keys: str) -> None:
        ActionChains(self.browser).send_keys(*keys).perform()
        self.settle()

    def slide(self, name: str, value: float) -> None:
        """Move a slider."""
        script = "arguments[0].value = arguments[1]; arguments[0].dispatchEvent(new Event('input', {bubbles: true}))"
        self.browser.execute_script(script, self(name), value)
        self.settle()

    def quiet(self) -> None:
        """Nothing was logged, and nothing asked of a network."""
        assert self.browser.get_log("browser") == []
        names = self.browser.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
        assert [name for name in names if not name.startswith("data:")] == []
