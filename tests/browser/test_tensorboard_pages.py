"""A run's events in a real browser: TensorBoard's pages load and show the tags. Skipped where there is no Chromium."""

import re
import subprocess
import sys
from collections import defaultdict
from pathlib import Path

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.browser.chromium import CHROMIUM, Page

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium")

SECONDS = 60
CARDS = 12  # of a group on its first page
# All of the page, shadow trees too.
EVERYTHING = """
    const nodes = [];
    const walk = node => { nodes.push(node); node.shadowRoot && walk(node.shadowRoot); node.childNodes.forEach(walk); };
    walk(document);
"""
OPEN_GROUPS = f"(() => {{ {EVERYTHING} nodes.forEach(node => {{ if ('opened' in node && 'category' in node) \
    node.opened = true; }}); }})()"
TEXT = f"(() => {{ {EVERYTHING} return nodes.filter(node => node.nodeType === 3 && !['STYLE', 'SCRIPT', 'TEMPLATE']\
    .includes(node.parentNode.tagName)).map(node => node.data).join('').replace(/\\s/g, ''); }})()"
LOADED = f"(() => {{ {EVERYTHING} return nodes.filter(node => node.tagName === 'IMG' && node.naturalWidth > 100)\
    .length; }})()"


@pytest.fixture(scope="module")
def events(scripts, trained, tmp_path_factory) -> Path:
    """The events of a short run of onnas.py."""
    path = tmp_path_factory.mktemp("events") / "run"
    flags = ("--eval_epochs", 1, "--test_task_train_steps", 8)
    scripts.onnas(trained / "meta_cell.pt", path, *flags).succeeded()
    return path / "tb"


@pytest.fixture(scope="module")
def url(events):
    """Of TensorBoard, running."""
    command = [sys.executable, "-m", "tensorboard.main", "--logdir", events, "--host", "127.0.0.1", "--port", "0"]
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
    for line in server.stderr:
        if address := re.search(r"http://\S+", line.partition(" at ")[2]):
            break
    yield address[0]
    server.kill()
    server.wait()


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    page = Page(tmp_path_factory.mktemp("profile"))
    yield page
    page.close()


def first_cards(events: Path, kind: str) -> list[str]:
    """The tags that the first pages of all groups show."""
    groups = defaultdict(set)
    for tag in EventAccumulator(str(events)).Reload().Tags()[kind]:
        groups[tag.partition("/")[0]].add(tag)
    return [tag for tags in groups.values() for tag in sorted(tags)[:CARDS]]


@pytest.mark.parametrize(("tab", "kind"), [("scalars", "scalars"), ("images", "images")])
def test_page_shows_the_tags(page, url, events, tab, kind):
    tags = first_cards(events, kind)
    assert tags
    page.open(f"{url}#{tab}")
    shown = " && ".join(f"text.includes('tag:{tag}')" for tag in tags)
    assert page.wait_for(f"{OPEN_GROUPS}, (text => {shown})({TEXT})", SECONDS), page.evaluate(TEXT)


def test_pictures_are_loaded(page, url, events):
    tags = first_cards(events, "images")
    page.open(f"{url}#images")
    page.wait_for(f"{OPEN_GROUPS}, {LOADED} >= {len(tags)}", SECONDS)
    assert page.evaluate(LOADED) >= len(tags)
