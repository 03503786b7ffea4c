"""The page as its user has it: real pointers, fingers and keys in Chromium, and what JAX computes of the same."""

import base64
import io
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from explored import Made, Reader
from PIL import Image
from selenium import webdriver
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import Select

from flax_vae import Config, UserError, init
from flax_vae.data import one_hot
from flax_vae.data.fashion_mnist import CLASS_NAMES, from_subset
from flax_vae.explore import About, Functions, halved, page
from flax_vae.explore.page import _number, png
from flax_vae.runs.build import make_model
from flax_vae.runs.run import load_run

pytestmark = pytest.mark.quick_compile  # images are compared by their bytes; test_functions.py compares numbers
Make, Read = Callable[[str], Made], Callable[..., Reader]
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


def content_of(text: str) -> dict[str, Any]:
    return json.loads(text.split('id="content">')[1].split("</script>")[0])


def images_of(shape: tuple[int, int, int], count: int) -> tuple[np.ndarray, np.ndarray]:
    """Test images at another size, in colour where it has three channels."""
    data = from_subset("test", "for tests")
    few = [np.asarray(Image.fromarray(each[..., 0]).resize(shape[1::-1])) for each in data.images[:count]]
    tints = np.linspace(1, 0.4, shape[2])
    return np.uint8(np.stack(few)[..., None] * tints), data.labels[:count]


@pytest.fixture(scope="session")
def make(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Each page once."""
    folder, found = tmp_path_factory.mktemp("explored"), {}

    def of(name: str) -> Made:
        if name not in found:
            found[name] = _made(name, folder / f"{name}.html")
        return found[name]

    return of


def _made(name: str, path: Path) -> Made:
    if name == "tutorial":
        run = load_run("pretrained:tutorial_conv")
        model, params, (images, labels) = run.vae, run.params, images_of((28, 28, 1), 500)
    else:
        config, shape = Config(**CONFIGS[name]), (7, 6, 3 if name == "colour" else 1)
        model, (images, labels) = make_model(config, shape), images_of(shape, 120)
        params = _random(jax.eval_shape(lambda: init(model, jax.random.key(0), shape, 10 * config.conditional)))
    conditional = name == "conditional"
    batch = (images, one_hot(labels, 10)) if conditional else images
    text = page(model, params, batch, None if name == "layers" else labels, CLASS_NAMES, ABOUT)
    path.write_text(text)
    return Made(path, content_of(text), Functions(model, halved(params)), labels)


def _random(params: Any) -> Any:
    """As large as they are in training."""
    random = np.random.default_rng(0)

    def draw(leaf: jax.ShapeDtypeStruct) -> np.ndarray:
        inputs = np.prod(leaf.shape[:-1]) if len(leaf.shape) > 1 else 4
        return np.float32(1.5 * random.normal(size=leaf.shape) / np.sqrt(inputs))

    return jax.tree.map(draw, params)


@pytest.fixture
def read(browser: webdriver.Chrome, make: Make) -> Iterator[Callable[..., Reader]]:
    """Open a page in a window of a size; afterwards nothing may have been logged or asked for."""
    opened = []

    def of(name: str, width: int = 1440, height: int = 1300, touch: bool = False, **media: str) -> Reader:
        metrics = {"width": width, "height": height, "deviceScaleFactor": 1, "mobile": touch}
        browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
        browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": touch})
        features = [{"name": f"prefers-{k.replace('_', '-')}", "value": value} for k, value in media.items()]
        browser.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": features})
        opened.append(Reader(browser, make(name)))
        return opened[-1]

    yield of
    for reader in opened[-1:]:
        reader.quiet()
    browser.execute_cdp_cmd("Emulation.setTouchEmulationEnabled", {"enabled": False})
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def same(found: np.ndarray, expected: np.ndarray) -> None:
    """Images of bytes, but for how numbers round."""
    np.testing.assert_allclose(found[..., : expected.shape[-1]], expected, rtol=0, atol=1)


@pytest.mark.parametrize("name", ["tutorial", *CONFIGS])
def test_what_is_shown_is_what_jax_computes(name: str, read: Read, make: Make) -> None:
    """Under the pointer, of a test image, of samples, along an axis; for every kind of model."""
    made, reader = make(name), read(name)
    label = int(made.content["labels"][0]) if made.content["context"] else 0
    original = reader.image("original")
    image = np.float32(original.reshape(made.content["shape"]) / 255)
    centre, _ = made.encode(image[None], *made.context(label))
    np.testing.assert_allclose(centre, made.point(0), rtol=2e-3, atol=2e-3)
    same(reader.image("reconstruction"), made.decoded(np.asarray(centre), label))
    for offset in ((37, -52), (-110, 81)):
        reader.move(offset)
        assert reader.text("here-title") == "Under the pointer"
        expected = made.decoded(reader.at(offset, np.asarray(centre)), label)
        assert expected.std() > 1
        same(reader.image("here"), expected)
    reader.browser.execute_script("document.querySelector('#samples .cell').click()")
    reader.settle()
    assert reader.text("here-title") == "Current point"
    if name != "ladder":  # whose lower layers are drawn as well
        same(reader.every("samples")[0], reader.image("here"))
    row = reader.every("along")
    assert np.abs(row[0] - row[-1]).max() > 3


def test_the_first_picture_comes_at_once_and_dragging_is_smooth(
    read: Read, record_property: Callable[[str, object], None]
) -> None:
    """Also where two cores are shared with other tests; alone it is a fifth of a second, and every frame."""
    reader = read("tutorial")
    first = reader.browser.execute_script("return performance.getEntriesByName('first picture')[0].startTime")
    script = """
      const [plane, here] = ["plane", "here"].map((id) => document.getElementById(id)), end = arguments[0];
      const {left, top, width, height} = plane.getBoundingClientRect(), context = here.getContext("2d");
      const put = context.putImageData.bind(context);
      let decoded = 0;
      context.putImageData = (...all) => (decoded++, put(...all));
      const send = (kind, t) => plane.dispatchEvent(new PointerEvent(kind, {
        pointerId: 1, isPrimary: true, bubbles: true,
        clientX: left + width * (0.5 + 0.3 * Math.cos(9 * t)), clientY: top + height * (0.5 + 0.3 * Math.sin(9 * t))}));
      plane.setPointerCapture = () => null;
      send("pointerdown", 0);
      const began = performance.now();
      const frame = () => {
        const t = (performance.now() - began) / 1000;
        if (t > 1) return (send("pointerup", t), delete context.putImageData, end(decoded / t));
        send("pointermove", t);
        requestAnimationFrame(frame);
      };
      frame();
    """
    rate = reader.browser.execute_async_script(script)
    record_property("first picture, ms", first)
    record_property("decodes a second", rate)
    print(f"first picture after {first:.0f} ms, {rate:.0f} decodes a second")
    assert first < 3000
    assert rate > 15


def test_a_drag_moves_the_point_and_a_click_picks_an_image(read: Read) -> None:
    """Its original, its reconstruction, its posterior, and neighbours to go on to."""
    reader, made = read("tutorial"), read("tutorial").made
    chain = ActionChains(reader.browser, duration=0).move_to_element_with_offset(reader("plane"), -40, -40)
    chain.click_and_hold().move_by_offset(60, 10).move_by_offset(33, 120).release().perform()
    reader.settle()
    at = reader.at((53, 90), np.zeros(2))
    assert reader.text("position") == f"z = ({at[0]:.2f}, {at[1]:.2f})"
    ActionChains(reader.browser).move_to_element(reader("theme")).perform()
    reader.settle()
    same(reader.image("here"), made.decoded(at))
    # A point that is far from all others, so that a click is of no other.
    points = np.stack([made.point(i) for i in range(500)])
    apart = np.abs(points[:, None] - points[None]).max(-1) + 9 * np.eye(500)
    far = int(np.argmax(np.where(np.abs(points).max(-1) < 2.5, apart.min(1), 0)))
    reader.move(reader.offset(points[far]), click=True)
    name = CLASS_NAMES[made.content["labels"][far]]
    assert reader.text("test-note").startswith(f"{name}, and")
    image = np.float32(reader.image("original") / 255)
    centre, scale = made.encode(image[None])
    np.testing.assert_allclose(centre, points[far], atol=2e-3)
    same(reader.image("reconstruction"), made.decoded(np.asarray(centre)))
    assert_ellipse(reader, np.asarray(centre), np.asarray(scale))
    neighbours = reader("neighbours").find_elements(By.CSS_SELECTOR, "button")
    distances = np.linalg.norm(points - points[far], axis=-1)
    nearest = CLASS_NAMES[made.content["labels"][np.argsort(distances)[1]]]
    assert neighbours[0].get_attribute("aria-label") == f"Test image, {nearest}"
    neighbours[0].click()
    reader.settle()
    assert reader.text("test-note").startswith(nearest)


def assert_ellipse(reader: Reader, centre: np.ndarray, scale: np.ndarray) -> None:
    """Two deviations from the centre the canvas of marks has the accent's colour."""
    sides, middle, *halves = reader.plane()
    accent = reader.browser.execute_script(
        "return getComputedStyle(document.documentElement).getPropertyValue('--accent').trim()"
    )
    colour = [int(accent[i : i + 2], 16) for i in (1, 3, 5)]
    (marks,) = reader.pixels(reader("marks"))
    for angle in np.arange(0, 2 * np.pi, 0.7):
        z = centre + 2 * scale @ [np.cos(angle), np.sin(angle)]
        x, y = np.rint(((z - middle) / halves * [1, -1] + 1) / 2 * sides).astype(int)
        near = marks[y - 3 : y + 4, x - 3 : x + 4].reshape(-1, 4)
        assert np.abs(near[:, :3] - colour).sum(1).min() < 60, (angle, x, y)


def test_keys_do_what_the_pointer_does(read: Read) -> None:
    reader = read("tutorial")
    for _ in range(3):  # the link past the head, the theme, the plane
        reader.keys(Keys.TAB)
    assert reader.browser.switch_to.active_element.get_attribute("id") == "plane"
    assert reader.browser.execute_script("return document.activeElement.matches(':focus-visible')")
    before = reader.position()
    reader.keys(Keys.ARROW_RIGHT)
    small = reader.position() - before
    ActionChains(reader.browser).key_down(Keys.SHIFT).send_keys(Keys.ARROW_UP).key_up(Keys.SHIFT).perform()
    reader.settle()
    large = reader.position() - before - small
    assert small[0] > 0.04
    assert abs(small[1]) < 0.011
    assert large[1] > 3 * small[0]
    z = reader.text("position")
    reader.until(lambda: reader.text("summary").startswith(f"{z}, density "))
    assert "nearest class " in reader.text("summary")
    reader.keys("b")
    reader.keys(Keys.ENTER)
    assert reader.text("position") != z
    assert "nearest neighbours" in reader.text("test-note")
    reader.keys(Keys.ESCAPE)
    assert reader.text("test-note") == "Click a point of the plane."
    reader.browser.execute_script(
        "window.seen = []; document.addEventListener('focusin', (e) => seen.push(e.target.id))"
    )
    reader.keys(*[Keys.TAB] * 70)
    seen = reader.browser.execute_script("return seen")
    assert {"set-a", "brush", "clear", "temperature", "new-noise", "axis", "play", "scrubber"} <= set(seen)
    unnamed = """
      const named = (e) => e.ariaLabel || e.getAttribute("aria-labelledby") || e.textContent.trim() || e.labels?.length;
      const every = [...document.querySelectorAll("button, select, input, canvas, [role]")];
      return every.filter((e) => e.offsetParent && !e.closest("[aria-hidden]") && !named(e)).map((e) => e.outerHTML);
    """
    assert reader.browser.execute_script(unnamed) == []


def test_what_one_draws_is_encoded_at_each_stroke(read: Read) -> None:
    reader, drawing = read("tutorial"), lambda: reader("drawing")
    made = reader.made
    assert reader.image("drawing").max() == 0
    chain = ActionChains(reader.browser, duration=10).move_to_element_with_offset(drawing(), -60, -60).click_and_hold()
    chain.move_by_offset(60, 5).perform()
    reader.settle()
    first = reader.position()
    ActionChains(reader.browser, duration=10).move_by_offset(40, 100).move_by_offset(-90, 10).release().perform()
    reader.settle()
    assert np.abs(reader.position() - first).max() > 0.01
    image = np.float32(reader.image("drawing") / 255)
    levels = np.unique(image)
    assert len(levels) > 10  # edges are soft
    assert levels.max() == np.float32(204 / 255)
    centre, _ = made.encode(image[None])
    np.testing.assert_allclose(reader.position(), centre, atol=0.03)  # of a drawing that is not rounded to bytes
    assert np.abs(reader.image("redrawn") - made.decoded(np.asarray(centre))).mean() < 2
    reader("eraser").click()
    chain = ActionChains(reader.browser, duration=10).move_to_element_with_offset(drawing(), -60, -60)
    chain.click_and_hold().move_by_offset(50, 5).release().perform()
    reader.settle()
    assert reader.image("drawing").sum() < 0.9 * 255 * image.sum()
    reader("clear").click()
    assert reader.image("drawing").max() == 0
    reader("trace").click()
    reader.settle()
    same(reader.image("drawing"), reader.image("original"))
    same(reader.image("redrawn"), reader.image("reconstruction"))


def test_temperature_changes_samples_of_the_same_noise(read: Read) -> None:
    reader = read("tutorial")
    reader.settle(30)
    at_one = reader.every("samples")
    reader.slide("temperature", 0)
    reader.settle(30)
    cold = reader.every("samples")
    assert np.ptp(cold, axis=0).max() == 0  # all are the prior's mean
    same(cold[0], reader.made.decoded(np.zeros(2, np.float32)))
    reader.slide("temperature", 1)
    reader.settle(30)
    np.testing.assert_array_equal(reader.every("samples"), at_one)
    reader("new-noise").click()
    reader.settle(30)
    assert np.abs(reader.every("samples") - at_one).max() > 100


@pytest.mark.parametrize("motion", ["no-preference", "reduce"])
def test_the_path_from_a_to_b_plays(motion: str, read: Read) -> None:
    reader = read("tutorial", reduced_motion=motion)
    ends = []
    for offset, button in (((-100, 60), "set-a"), ((80, -90), "set-b")):
        reader.move(offset, click=True)
        ends.append(reader.position())
        reader(button).click()
    reader.settle(20)
    film = reader.every("film")
    for t, image in ((0, film[0]), (1, film[-1])):
        reader.slide("scrubber", t)
        np.testing.assert_allclose(reader.position(), ends[t], atol=0.006)
        same(reader.image("here"), image)
        marked = reader("film").find_elements(By.CSS_SELECTOR, "[aria-current=true]")
        assert [each.text for each in marked] == ["AB"[t]]
    reader("play").click()  # from the start, since it is at the end
    reader.until(lambda: 0.01 < float(reader("scrubber").get_attribute("value")) < 0.9)
    assert reader.text("play") == "Pause"
    steps = {float(reader("scrubber").get_attribute("value")) for _ in range(5)}
    assert motion == "no-preference" or steps <= {0.125, 0.25}  # from image to image
    reader("play").click()
    way = reader("scrubber").get_attribute("value")
    reader.settle(10)
    assert reader("scrubber").get_attribute("value") == way
    middle = ends[0] + float(way) * (ends[1] - ends[0])
    np.testing.assert_allclose(reader.position(), middle, atol=0.01)


def test_classes_can_be_hidden_and_themes_chosen(read: Read) -> None:
    reader = read("tutorial", color_scheme="dark")
    assert brightness(reader) < 60
    reader("theme").click()
    assert brightness(reader) > 200
    (whole,) = reader.pixels(reader("cloud"))
    legend = reader("legend").find_elements(By.CSS_SELECTOR, "button")
    assert [each.text for each in legend] == list(CLASS_NAMES)
    for button in legend:
        button.click()
    assert {each.get_attribute("aria-pressed") for each in legend} == {"false"}
    (bare,) = reader.pixels(reader("cloud"))
    assert (np.abs(bare - whole).max(-1) > 30).mean() > 0.01
    first = reader.text("test-note")
    bag = reader.made.point(reader.made.content["labels"].index(8))
    reader.move(reader.offset(bag), click=True)  # there are no points to pick
    assert reader.text("test-note") == first
    legend[8].click()
    reader.move(reader.offset(bag), click=True)
    assert reader.text("test-note").startswith("Bag")


def brightness(reader: Reader) -> float:
    colour = reader.browser.execute_script("return getComputedStyle(document.body).backgroundColor")
    return float(np.mean([int(each) for each in colour[4:-1].split(",")]))


def test_a_finger_on_the_plane_moves_the_point_and_not_the_page(read: Read) -> None:
    """Beside it the page scrolls, and nothing is wider than the phone."""
    reader = read("tutorial", 360, 740, touch=True)
    wide = "return Math.max(document.documentElement.scrollWidth, document.body.scrollWidth)"
    assert reader.browser.execute_script(wide) == 360
    reader.browser.execute_script("document.getElementById('plane').scrollIntoView({block: 'center'})")
    reader.settle()
    before, top = reader.position(), reader.browser.execute_script("return scrollY")
    box = reader.box("plane")
    swipe(reader, [(box["x"] + 80, box["y"] + 60 + 12 * i) for i in range(12)])
    assert reader.browser.execute_script("return scrollY") == top
    assert np.abs(reader.position() - before).max() > 0.3
    assert reader.text("here-title") == "Current point"
    reader.browser.execute_script("scrollTo(0, 0)")
    head = reader.box("here-title")
    swipe(reader, [(head["x"] + 20, head["y"] + 200 - 20 * i) for i in range(10)])
    assert reader.browser.execute_script("return scrollY") > 50


def swipe(reader: Reader, way: list[tuple[float, float]]) -> None:
    for i, (x, y) in enumerate(way):
        kind = "touchStart" if i == 0 else "touchMove"
        reader.browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": x, "y": y}]})
    reader.browser.execute_cdp_cmd("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    reader.settle()


def test_of_many_dimensions_one_chooses_two(read: Read) -> None:
    """Sliders hold the others, the principal axes are there as well, and the most active come first."""
    reader = read("gated, of ten")
    axes = reader.made.latents["axes"]
    order = axes[0]["order"]
    across, up = Select(reader("across")), Select(reader("up"))
    assert [int(each.get_attribute("value")) for each in across.options] == order
    assert sorted([int(s.first_selected_option.get_attribute("value")) for s in (across, up)]) == sorted(order[:2])
    assert len(reader("others").find_elements(By.CSS_SELECTOR, "input")) == 4
    assert reader.text("more-others").strip().startswith("4 more")
    across.select_by_value(str(order[5]))
    up.select_by_value(str(order[3]))
    reader.settle()
    assert reader.text("position").startswith(f"{name_of(order[5])} = ")
    shown = reader.image("here")
    reader("reset").click()
    reader.settle()
    assert np.abs(reader.image("here") - shown).max() > 3
    outputs = [each.text for each in reader("others").find_elements(By.CSS_SELECTOR, "output")]
    values = [float(each.replace("\N{MINUS SIGN}", "-")) for each in outputs]
    rest = [i for i in order if i not in (order[5], order[3])]
    np.testing.assert_allclose(values, [axes[0]["mean"][i] for i in rest[:4]], atol=0.006)
    Select(reader("basis")).select_by_visible_text("principal")
    reader.settle()
    assert reader.text("position").startswith("p₁ = ")
    assert not across._el.is_displayed()
    assert reader.text("density") != "unknown"


def name_of(i: int) -> str:
    return f"z{i + 1}".translate(str.maketrans("0123456789", "₀₁₂₃₄₅₆₇₈₉"))


def test_a_class_is_what_a_conditional_model_is_given(read: Read) -> None:
    reader = read("conditional")
    made, label = reader.made, int(reader.made.content["labels"][0])
    chosen = Select(reader("context"))
    assert chosen.first_selected_option.text == CLASS_NAMES[label]
    reader.settle(20)
    samples, z = reader.every("samples"), made.point(0)
    chosen.select_by_value(str((label + 1) % 10))
    reader.settle(20)
    other = made.decoded(z, (label + 1) % 10)
    assert np.abs(other - made.decoded(z, label)).max() > 3
    np.testing.assert_allclose(reader.image("here"), other, atol=2)  # from float16's z
    assert np.abs(reader.every("samples") - samples).max() > 3


def test_names_are_text_and_nothing_calls_a_network(make: Make) -> None:
    made = make("tutorial")
    text = made.path.read_text()
    assert "alert(1)</script>" not in text
    assert "<h1>a &lt;b&gt; &amp; &quot;c&quot;</h1>" in text
    for forbidden in ("http://", "https://", "fetch(", "eval(", "Worker", "import("):
        assert forbidden not in text.replace("http://www.w3.org", "")


def test_a_model_that_diverged_is_refused() -> None:
    model, (images, labels) = make_model(Config(**CONFIGS["line"]), (7, 6, 1)), images_of((7, 6, 1), 5)
    shapes = jax.eval_shape(lambda: init(model, jax.random.key(0), (7, 6, 1)))
    params = jax.tree.map(lambda leaf: np.full(leaf.shape, np.nan, np.float32), shapes)
    with pytest.raises(UserError, match="not finite"):
        page(model, params, images, labels, CLASS_NAMES, ABOUT)


def test_the_sprite_is_lossless_and_its_size_bounded() -> None:
    random = np.random.default_rng(0)
    for c in (1, 2, 3):
        images = random.integers(0, 256, (7, 5, 4, c), np.uint8)
        with Image.open(io.BytesIO(base64.b64decode(png(images).split(",")[1]))) as found:
            pixels = np.asarray(found).reshape(3 * 5 * (c if c != 3 else 1), 3 * 4, -1)
        tile = pixels[: pixels.shape[0] // 3, 4:8]
        expected = images[1] if c == 3 else images[1].transpose(2, 0, 1).reshape(-1, 4, 1)
        np.testing.assert_array_equal(tile, expected)
    noise = random.integers(0, 256, (2000, 32, 32, 3), np.uint8)
    assert 300 < _number(noise) < 400
    assert _number(np.zeros_like(noise)) == 1500
