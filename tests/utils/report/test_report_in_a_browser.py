"""report.html in Chromium: on a phone and on a desk, light and dark; skipped where it is not installed."""

import itertools
import json
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

import pytest

from tests.utils.report.hand_written_runs import few_shot_run, full_task_run, tfml_run
from utils.report.page import write_report

SECONDS_TO_START = 20
FLAGS = "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking"
FLAGS += " --disable-component-update --disable-sync"
RUNS = {"few-shot": few_shot_run, "full": full_task_run, "tfml": tfml_run}
CONTRAST = 4.5  # what WCAG 2 asks of text

# Every text that is seen: what it says, its box, its colour, and the colour behind it.
TEXTS = """
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
  const shape = parent.closest("text")?.previousElementSibling;
  if (shape && ["circle", "rect"].includes(shape.tagName)) behind = getComputedStyle(shape).fill;
  seen.push([text.data.trim(), boxes, getComputedStyle(parent)[drawn ? "fill" : "color"], behind]);
}
return seen;
"""


class Browser:
    """A window of Chromium, by the WebDriver protocol."""

    def __init__(self, port: int):
        self._address = f"http://127.0.0.1:{port}/session"
        options = {"goog:chromeOptions": {"args": FLAGS.split()}, "browserName": "chrome"}
        started = self._ask("POST", "", {"capabilities": {"alwaysMatch": options}})
        self._address += f"/{started['sessionId']}"

    def open(self, page: Path, width: int, scheme: str) -> None:
        screen = {"width": width, "height": 900, "deviceScaleFactor": 1, "mobile": width < 600}
        self._command("Emulation.setDeviceMetricsOverride", **screen)
        features = [{"name": "prefers-color-scheme", "value": scheme}]
        self._command("Emulation.setEmulatedMedia", features=features)
        self._ask("POST", "/url", {"url": page.as_uri()})

    def run(self, script: str):
        return self._ask("POST", "/execute/sync", {"script": script, "args": []})

    def close(self) -> None:
        self._ask("DELETE", "")

    def _command(self, name: str, **parameters) -> None:
        self._ask("POST", "/goog/cdp/execute", {"cmd": name, "params": parameters})

    def _ask(self, method: str, path: str, body: dict | None = None):
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(
            self._address + path, data, {"Content-Type": "application/json"}, method=method
        )
        with urllib.request.urlopen(request, timeout=SECONDS_TO_START) as answer:
            return json.load(answer)["value"]


@pytest.fixture(scope="module")
def browser():
    driver = shutil.which("chromedriver")
    if driver is None or shutil.which("chromium") is None:
        pytest.skip("chromium and chromedriver are not installed")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen([driver, f"--port={port}"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        browser, end = None, time.monotonic() + SECONDS_TO_START
        while browser is None:
            try:
                browser = Browser(port)
            except urllib.error.URLError:
                assert time.monotonic() < end
                time.sleep(0.05)
        yield browser
        browser.close()
    finally:
        process.terminate()
        process.wait()


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
    browser.open(pages[run], width, scheme)
    scrolled, inner = browser.run("return [document.documentElement.scrollWidth, innerWidth]")
    assert inner == width
    assert scrolled <= inner
    page = luminance(browser.run("return getComputedStyle(document.body).backgroundColor"))
    assert page < 0.1 if scheme == "dark" else page > 0.8
    texts = browser.run(TEXTS)
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
