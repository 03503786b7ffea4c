"""The documentation in a browser: its pages load nothing from elsewhere, and nothing on them is wider than the page."""

import subprocess
import sys
from pathlib import Path

import pytest
from selenium import webdriver

pytestmark = pytest.mark.slow

# Blocks that reach beyond the window, unless a box around them scrolls; on a wide window, also boxes that scroll.
WIDER = """
const found = [], right = document.documentElement.clientWidth + 1, wide = right > 1200;
for (const block of document.querySelectorAll(".md-content *")) {
  const scrolls = (box) => ["auto", "scroll", "hidden"].includes(getComputedStyle(box).overflowX);
  let box = block;
  while (box && !scrolls(box)) box = box.parentElement;
  if (!box && block.getBoundingClientRect().right > right) found.push(block.textContent.slice(0, 60));
  const code = ["PRE", "CODE", "math", "TABLE"].includes(block.tagName) && getComputedStyle(block).display != "inline";
  if (wide && code && block.scrollWidth > block.clientWidth + 1) found.push(block.textContent.slice(0, 60));
}
return document.documentElement.scrollWidth > right ? [...found, "the page"] : found;
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the documentation."""
    pytest.importorskip("mkdocs", reason="needs flax_vae[docs]")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True)
    return folder


def test_nothing_is_wider_than_its_page(site: Path, browser: webdriver.Chrome) -> None:
    """On a phone, a small and a large window."""
    pages = sorted(site.rglob("index.html"))
    assert len(pages) > 15
    browser.get_log("browser")
    size = browser.get_window_size()
    wider = {}
    for page in pages:
        browser.get(page.as_uri())
        for width in (400, 900, 1400):
            browser.set_window_size(width, 900)
            if found := browser.execute_script(WIDER):
                wider[page.parent.name, width] = found[:3]
    browser.set_window_size(size["width"], size["height"])
    assert not wider
    assert not browser.get_log("browser")  # such as files that could not be loaded
