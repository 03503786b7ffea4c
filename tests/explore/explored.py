"""Pages of `flax_vae.explore` for tests: their models, and a user who reads and operates them in the browser."""

import base64
import io
import json
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import numpy as np
from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains
from selenium.webdriver.common.actions.action_builder import ActionBuilder
from selenium.webdriver.common.by import By
from selenium.webdriver.remote.webelement import WebElement

from flax_vae import Config, init
from flax_vae.batches import Batch
from flax_vae.data import one_hot
from flax_vae.data.sources.fashion_mnist import CLASS_NAMES, from_subset
from flax_vae.evaluation.run import load_run
from flax_vae.explore import About, Functions, halved, page
from flax_vae.runs.models import make_model

DENSE = "tutorial_dense(features=(16,))"
CONFIGS = {
    "gated, of ten": {"preset": "gated_mlp(features=(16, 16))", "latent_dim": 10, "posterior": "full"},
    "conditional": {"preset": DENSE, "latent_dim": 2, "conditional": True},
    "ladder": {"preset": "ladder(widths=(4, 6), depths=(1, 1), channels=2)", "latent_dim": 3},
    "layers": {"preset": DENSE, "latent_dim": 2, "levels": 2},
    "colour": {"preset": DENSE, "latent_dim": 2, "likelihood": "discretized_logistic"},
    "line": {"preset": DENSE, "latent_dim": 1},
}
ABOUT = About('a <b> & "c"', "A model.", {"preset": "</script><script>alert(1)</script>"}, "1.2")


@dataclass(frozen=True)
class Explored:
    """A page and its model."""

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
        """Return the posterior mean of a test image, as stored in the page."""
        numbers = np.frombuffer(base64.b64decode(self.latents["points"]["weights"]), "<f2")
        return numbers.reshape(-1, self.latents["size"])[i].astype(np.float32)

    def decoded(self, z: np.ndarray, label: int = 0) -> np.ndarray:
        """Return the decoded image as bytes, "h w c"."""
        return np.rint(np.clip(self.decode(z[None], *self.context(label)), 0, 1) * 255)

    @cached_property
    def decode(self) -> Any:
        return jax.jit(self.functions.decode)

    @cached_property
    def encode(self) -> Any:
        return jax.jit(self.functions.encode)


def explore_model(name: str, path: Path) -> Explored:
    if name == "tutorial":
        run = load_run("pretrained:tutorial_conv")
        model, params, (images, labels) = run.model, run.params, images_of((28, 28, 1), 500)
    else:
        config, shape = Config(**CONFIGS[name]), (7, 6, 3 if name == "colour" else 1)
        model, (images, labels) = make_model(config, shape), images_of(shape, 120)
        params = random_params(model, shape, 10 * config.conditional, scale=1.5)
    conditional = name == "conditional"
    batch = Batch(images, one_hot(labels, 10) if conditional else None)
    text = page(model, params, batch, None if name == "layers" else labels, CLASS_NAMES, ABOUT)
    path.write_text(text)
    return Explored(path, content_of(text), Functions(model, halved(params)), labels)


def random_params(model: nn.Module, image_shape: tuple[int, int, int], context_dim: int = 0, scale: float = 1.0) -> Any:
    """Draw parameters of the magnitude that training gives them, none of them 0."""
    shapes = jax.eval_shape(lambda: init(model, jax.random.key(0), image_shape, context_dim))
    random = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        inputs = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 4
        return np.float32(scale * random.normal(size=leaf.shape) / np.sqrt(inputs))

    return halved(jax.tree.map(draw, shapes))


def content_of(text: str) -> dict[str, Any]:
    return json.loads(text.split('id="content">')[1].split("</script>")[0])


def images_of(shape: tuple[int, int, int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Return test images at another size, tinted for three channels."""
    data = from_subset("test", "for tests")
    small = [np.asarray(Image.fromarray(image[..., 0]).resize(shape[1::-1])) for image in data.x[:count]]
    tints = np.linspace(1, 0.4, shape[2])
    return np.uint8(np.stack(small)[..., None] * tints), data.labels[:count]


class Reader:
    """A user who reads a page and operates it."""

    def __init__(self, browser: webdriver.Chrome, explored: Explored) -> None:
        self.browser, self.explored = browser, explored
        away = ActionBuilder(browser)
        away.pointer_action.move_to_location(1, 1)  # the previous test may have left it on the plane
        away.perform()
        browser.get(explored.path.as_uri())
        self.until(lambda: self.text("test-note") != "Click a point on the plane.")
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
        """Wait for frames, in which the page updates."""
        script = "let n = arguments[0], end = arguments[1]; const f = () => n-- ? requestAnimationFrame(f) : end(); f()"
        self.browser.execute_async_script(script, frames)

    def pixels(self, *canvases: WebElement) -> list[np.ndarray]:
        """Return the pixels of canvases, red, green, blue and alpha, "height width 4" each."""
        urls = self.browser.execute_script("return [...arguments].map((canvas) => canvas.toDataURL())", *canvases)
        return [np.array(Image.open(io.BytesIO(base64.b64decode(url.split(",")[1])))).astype(int) for url in urls]

    def image(self, name: str) -> np.ndarray:
        """Return the image on a canvas, "h w c"."""
        return self._channels(self.pixels(self(name)))[0]

    def every(self, root: str) -> np.ndarray:
        """Return the images of a row."""
        return np.stack(self._channels(self.pixels(*self(root).find_elements(By.CSS_SELECTOR, "canvas"))))

    def _channels(self, images: list[np.ndarray]) -> list[np.ndarray]:
        return [image[..., : 3 if self.explored.content["shape"][2] == 3 else 1] for image in images]

    def plane(self) -> tuple[np.ndarray, np.ndarray, float, float]:
        """Return the plane's (width, height) in pixels, its middle, and half its width and height in units of z."""
        axes, size, pair = self.explored.latents["axes"][0], self.explored.latents["size"], self.pair()
        sides = [int(self("cloud").get_attribute(side)) for side in ("clientWidth", "clientHeight")]
        half = max(axes["reach"][i] for i in pair)
        middle = [axes["middle"][i] for i in pair] + [0] * (2 - len(pair))
        return np.array(sides), np.array(middle), half, half if size > 1 else 1.0

    def pair(self) -> list[int]:
        """Return the dimensions of the plane."""
        return [0] if self.explored.latents["size"] == 1 else sorted(self.explored.latents["axes"][0]["order"][:2])

    def offset(self, z: np.ndarray) -> tuple[int, int]:
        """Return the offset of z on the plane from its middle, in pixels."""
        sides, middle, *halves = self.plane()
        place = np.zeros(2)
        place[: len(self.pair())] = z[self.pair()]
        return tuple(np.rint((place - middle) / halves * sides / 2 * [1, -1]).astype(int).tolist())

    def at(self, offset: tuple[int, int], z: np.ndarray) -> np.ndarray:
        """Return z moved to an offset on the plane."""
        (width, height), middle, half, tall = self.plane()
        # The pointer moves to whole pixels of the screen, relative to the middle of the element, rounded down.
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
        """Return the displayed z of two dimensions."""
        return np.array([float(part) for part in self.text("position")[5:-1].split(", ")])

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
        """Assert that nothing was logged, and no network resource was requested."""
        assert self.browser.get_log("browser") == []
        names = self.browser.execute_script("return performance.getEntriesByType('resource').map((e) => e.name)")
        assert [name for name in names if not name.startswith("data:")] == []


def same(actual: np.ndarray, expected: np.ndarray) -> None:
    """Assert that images of bytes are equal up to rounding."""
    np.testing.assert_allclose(actual[..., : expected.shape[-1]], expected, rtol=0, atol=1)


Make, Read = Callable[[str], Explored], Callable[..., Reader]
