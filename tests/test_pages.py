"""The documentation in a browser: its pages load nothing from elsewhere, and nothing on them is wider than the page."""

import subprocess
import sys
from pathlib import Path

import pytest
from selenium import webdriver

pytestmark = pytest.mark.slow

# Blocks that reach beyond the window, unless a box around them scrolls; on a wide window, also boxes that scroll.
WIDER = """
const found = [], right = window.innerWidth + 1, wide = right > 1200, page = document.querySelector(".md-content");
for (const block of page.querySelectorAll("*")) {
  let box = block;
  while (box !== page && !["auto", "scroll"].includes(getComputedStyle(box).overflowX)) box = box.parentElement;
  if (box === page && block.getBoundingClientRect().right > right) found.push(block.textContent.slice(0, 60));
  const code = ["PRE", "CODE", "math", "TABLE"].includes(block.tagName) && getComputedStyle(block).display != "inline";
  if (wide && code && block.scrollWidth > block.clientWidth + 1) found.push(block.textContent.slice(0, 60));
}
return found;
"""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the documentation."""
    pytest.importorskip("mkdocs", reason="needs flax_vae[docs]")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", str(folder)]
    subprocess.run(command, cwd=Path(__file__).parents[1], check=True)
    return folder


def wider_than(width: int, browser: webdriver.Chrome) -> list[str]:
    """Return the beginnings of the blocks of the open page that are too wide for a window."""
    screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", screen)
    assert browser.execute_script("return window.innerWidth") == width
    return browser.execute_script(WIDER)


def test_nothing_is_wider_than_its_page(site: Path, browser: webdriver.Chrome) -> None:
    """On a phone, a small and a large window."""
    pages = sorted(site.rglob("index.html"))
    assert len(pages) > 15
    browser.get_log("browser")
    wider = {}
    for page in pages:
        browser.get(page.as_uri())
        for width in (400, 900, 1400):
            if found := wider_than(width, browser):
                wider[page.parent.name, width] = found[:3]
    assert not wider
    assert not browser.get_log("browser")  # such as files that could not be loaded
    block = "const wide = document.createElement('p'); wide.style.width = '3000px'; wide.textContent = 'too wide';"
    browser.execute_script(f"{block} document.querySelector('.md-content article').append(wide)")
    assert wider_than(900, browser) == ["too wide"]
    browser.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})
