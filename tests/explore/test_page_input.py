"""The page in Chromium responds to real pointer, touch and key events with the numbers that JAX computes."""

import numpy as np
import pytest
from explored import Read, Reader, same
from selenium.webdriver import ActionChains, Keys
from selenium.webdriver.common.by import By

from flax_vae.data.sources.fashion_mnist import CLASS_NAMES


@pytest.mark.slow
def test_a_drag_moves_the_point_and_a_click_picks_an_image(read: Read) -> None:
    """The panels show its original, reconstruction, posterior and neighbours."""
    reader, explored = read("tutorial"), read("tutorial").explored
    chain = ActionChains(reader.browser, duration=0).move_to_element_with_offset(reader("plane"), -40, -40)
    chain.click_and_hold().move_by_offset(60, 10).move_by_offset(33, 120).release().perform()
    reader.settle()
    at = reader.at((53, 90), np.zeros(2))
    assert reader.text("position") == f"z = ({at[0]:.2f}, {at[1]:.2f})"
    ActionChains(reader.browser).move_to_element(reader("theme")).perform()
    reader.settle()
    same(reader.image("here"), explored.decoded(at))
    # A point far from all others, so that the click selects no other.
    points = np.stack([explored.point(i) for i in range(500)])
    apart = np.abs(points[:, None] - points[None]).max(-1) + 9 * np.eye(500)
    far = int(np.argmax(np.where(np.abs(points).max(-1) < 2.5, apart.min(1), 0)))
    reader.move(reader.offset(points[far]), click=True)
    name = CLASS_NAMES[explored.content["labels"][far]]
    assert reader.text("test-note").startswith(f"{name}, and")
    image = np.float32(reader.image("original") / 255)
    centre, scale = explored.encode(image[None])
    np.testing.assert_allclose(centre, points[far], atol=2e-3)
    same(reader.image("reconstruction"), explored.decoded(np.asarray(centre)))
    assert_ellipse(reader, np.asarray(centre), np.asarray(scale))
    neighbours = reader("neighbours").find_elements(By.CSS_SELECTOR, "button")
    distances = np.linalg.norm(points - points[far], axis=-1)
    nearest = CLASS_NAMES[explored.content["labels"][np.argsort(distances)[1]]]
    assert neighbours[0].get_attribute("aria-label") == f"Test image, {nearest}"
    neighbours[0].click()
    reader.settle()
    assert reader.text("test-note").startswith(nearest)


def assert_ellipse(reader: Reader, centre: np.ndarray, scale: np.ndarray) -> None:
    """Assert that the marks have the accent's colour two standard deviations from the centre."""
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


@pytest.mark.slow
def test_keys_do_what_the_pointer_does(read: Read) -> None:
    reader = read("tutorial")
    for _ in range(3):  # the skip link, the theme, the plane
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
    assert reader.text("test-note") == "Click a point on the plane."
    reader.browser.execute_script(
        "window.focused = []; document.addEventListener('focusin', (e) => focused.push(e.target.id))"
    )
    reader.keys(*[Keys.TAB] * 70)
    focused = reader.browser.execute_script("return focused")
    assert {"set-a", "brush", "clear", "temperature", "new-noise", "axis", "play", "scrubber"} <= set(focused)
    unnamed = """
      const named = (e) => e.ariaLabel || e.getAttribute("aria-labelledby") || e.textContent.trim() || e.labels?.length;
      const every = [...document.querySelectorAll("button, select, input, canvas, [role]")];
      return every.filter((e) => e.offsetParent && !e.closest("[aria-hidden]") && !named(e)).map((e) => e.outerHTML);
    """
    assert reader.browser.execute_script(unnamed) == []


@pytest.mark.slow
def test_touch_on_the_plane_moves_the_point_but_not_the_page(read: Read) -> None:
    """Outside the plane the page scrolls, and nothing is wider than the screen."""
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


@pytest.mark.slow
def test_a_drawing_is_encoded_at_each_stroke(read: Read) -> None:
    reader, drawing = read("tutorial"), lambda: reader("drawing")
    explored = reader.explored
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
    centre, _ = explored.encode(image[None])
    # The page encodes the drawing before it is rounded to bytes.
    np.testing.assert_allclose(reader.position(), centre, atol=0.03)
    assert np.abs(reader.image("redrawn") - explored.decoded(np.asarray(centre))).mean() < 2
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


@pytest.mark.slow
def test_temperature_changes_samples_of_the_same_noise(read: Read) -> None:
    reader = read("tutorial")
    reader.settle(30)
    at_one = reader.every("samples")
    reader.slide("temperature", 0)
    reader.settle(30)
    cold = reader.every("samples")
    assert np.ptp(cold, axis=0).max() == 0  # all equal the prior's mean
    same(cold[0], reader.explored.decoded(np.zeros(2, np.float32)))
    reader.slide("temperature", 1)
    reader.settle(30)
    np.testing.assert_array_equal(reader.every("samples"), at_one)
    reader("new-noise").click()
    reader.settle(30)
    assert np.abs(reader.every("samples") - at_one).max() > 100


@pytest.mark.slow
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
        assert [element.text for element in marked] == ["AB"[t]]
    reader("play").click()  # from the start, because it is at the end
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
