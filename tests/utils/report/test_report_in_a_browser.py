"""report.html in Chromium: on a phone and on a desk, light and dark; skipped where it is not installed."""

import itertools
from pathlib import Path

import pytest

from tests.browser.chromium import CHROMIUM, Page
from tests.utils.report.test_report_page import RUNS
from utils.report.page import write_report

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

CONTRAST = 4.5  # what WCAG 2 asks of text

# Every text that is seen: what it says, its box, its colour, and the colour behind it.
TEXTS = """(() => {
const seen = [];
const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
while (walker.nextNode()) {
  const text = walker.currentNode, parent = text.parentElement;
  if (!text.data.trim()) continue;
  const range = document.createRange();
  range.selectNodeContents(text);
  const boxes = [...range.getClientRects()].map(box => [box.left, box.top, box.right, box.bottom]);
  const drawn = parent.closest("svg") !== null;
  let around = parent;
  while (around && getComputedStyle(around).backgroundColor === "rgba(0, 0, 0, 0)") around = around.parentElement;
  let behind = getComputedStyle(around || document.body).backgroundColor;
  // A name in the drawing of a cell stands in the box or on the node that is drawn just before it.
  const group = parent.closest("g");
  const shape = group?.querySelector(":scope > path") || group?.previousElementSibling?.querySelector("use");
  const cell = parent.closest("svg")?.getAttribute("aria-label").includes(" cell: ");
  if (cell && shape && getComputedStyle(shape).fill !== "none") behind = getComputedStyle(shape).fill;
  seen.push([text.data.trim(), boxes, getComputedStyle(parent)[drawn ? "fill" : "color"], behind]);
}
return seen;
})()"""
LOADED = "document.readyState === 'complete' && document.querySelector('footer') !== null"


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    page = Page(tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


@pytest.fixture(scope="module")
def pages(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("runs")
    return {name: write_report(run(folder / name)) for name, run in RUNS.items()}


def luminance(colour: str) -> float:
    """Relative luminance, by WCAG 2, of a colour "rgb(...)"; one that shines through is none."""
    *levels, alpha = [*(float(level) for level in colour[colour.index("(") + 1 : -1].split(",")), 1.0][:4]
    assert alpha == 1
    linear = [s / 12.92 if s <= 0.04045 else ((s + 0.055) / 1.055) ** 2.4 for s in (level / 255 for level in levels)]
    return sum(weight * level for weight, level in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def contrast(one: str, other: str) -> float:
    darker, lighter = sorted((luminance(one), luminance(other)))
    return (lighter + 0.05) / (darker + 0.05)


def test_contrast_of_what_is_known():
    assert contrast("rgb(0, 0, 0)", "rgb(255, 255, 255)") == pytest.approx(21)
    assert contrast("rgb(118, 118, 118)", "rgb(255, 255, 255)") == pytest.approx(4.54, abs=0.01)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("run", RUNS)
def test_page_fits_and_can_be_read(browser, pages, run, width, scheme):
    browser.show(width, scheme)
    browser.open(pages[run].as_uri())
    assert browser.wait_for(LOADED, 20)
    scrolled, inner = browser.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert inner == width
    assert scrolled <= inner
    page = luminance(browser.evaluate("getComputedStyle(document.body).backgroundColor"))
    assert page < 0.1 if scheme == "dark" else page > 0.8
    texts = browser.evaluate(TEXTS)
    assert len(texts) > 40
    faint = {text: contrast(colour, behind) for text, _, colour, behind in texts}
    assert {text: value for text, value in faint.items() if value < CONTRAST} == {}
    boxes = [(text, box) for text, lines, *_ in texts for box in lines]
    for text, (left, _, right, _) in boxes:
        assert 0 <= left <= right <= width, text
    for (one, a), (other, b) in itertools.combinations(boxes, 2):
        across, down = (min(a[axis + 2], b[axis + 2]) - max(a[axis], b[axis]) for axis in (0, 1))
        # Lines of text may touch: a box is higher than the letters in it.
        assert across < 1 or down < 0.3 * min(a[3] - a[1], b[3] - b[1]), (one, other)
