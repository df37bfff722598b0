"""The picture of a genotype: what is in it, and that its names do not meet."""

import itertools
import random
import shutil
import stat
import sys
from pathlib import Path

import pytest
from PIL import Image
from utils.pictures.cell_picture import as_dot, as_figure, cell_graph, draw_genotype

from tests.conftest import contents, fill
from utils.errors import InputError
from utils.pictures import cell_picture

OPERATIONS = ("conv_1x5_5x1", "max_pool_3x3", "skip_connect", "dil_conv_5x5")
# Node 1 reads node 0 twice, by two operations: not what a search finds, but to be seen where it is.
CELL = [("sep_conv_3x3", 0), ("skip_connect", 1), ("conv_1x5_5x1", 2), ("dil_conv_3x3", 2)]


def random_cell(nodes: int, seed: int) -> list[tuple[str, int]]:
    draw = random.Random(seed)
    return [(draw.choice(OPERATIONS), state) for node in range(nodes) for state in draw.sample(range(node + 2), 2)]


@pytest.fixture
def without_graphviz(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)


@pytest.fixture
def graphviz(monkeypatch, tmp_path):
    """Puts a Python script in the place of Graphviz's dot."""

    def install(body: str) -> None:
        dot = tmp_path / "dot"
        dot.write_text(f"#!{sys.executable}\nimport sys, time\nfrom pathlib import Path\n{body}\n")
        dot.chmod(dot.stat().st_mode | stat.S_IXUSR)
        monkeypatch.setattr(shutil, "which", {"dot": str(dot)}.get)

    return install


def size_of(picture: Path) -> tuple[int, int]:
    with Image.open(picture) as image:
        assert image.format == "PNG"
        image.load()
        return image.size


def test_graph_has_the_edges_of_the_cell_and_ends_with_all_nodes():
    graph = cell_graph(CELL)
    assert list(graph) == ["c_{k-2}", "c_{k-1}", "0", "1", "c_{k}"]
    assert sorted(graph.edges(data="label")) == [
        ("0", "1", "conv_1x5_5x1"),
        ("0", "1", "dil_conv_3x3"),
        ("0", "c_{k}", ""),
        ("1", "c_{k}", ""),
        ("c_{k-1}", "0", "skip_connect"),
        ("c_{k-2}", "0", "sep_conv_3x3"),
    ]


# --- Matplotlib -----------------------------------------------------------------------------------------------------


def test_picture_is_a_png_whole_or_not_at_all(without_graphviz, tmp_path):
    draw_genotype({"normal": CELL, "reduction": CELL}, tmp_path / "genotype.png")
    width, height = size_of(tmp_path / "genotype.png")
    assert width > height > 100
    assert list(contents(tmp_path)) == ["genotype.png"]


def test_full_disk(without_graphviz, tiny_disk):
    fill(tiny_disk)
    with pytest.raises(InputError, match=r"genotype\.png"):
        draw_genotype({"normal": CELL}, tiny_disk / "genotype.png")
    assert list(contents(tiny_disk)) == ["ballast"]


@pytest.mark.parametrize("nodes", [1, 3, 4, 8])
def test_no_two_names_meet_and_none_leaves_the_picture(nodes):
    cells = [random_cell(nodes, seed) for seed in range(2)]
    figure = as_figure({"normal": cell_graph(cells[0]), "reduction": cell_graph(cells[1])})
    figure.canvas.draw()
    texts = [text for axes in figure.axes for text in axes.texts]
    boxes = [text.get_window_extent() for text in texts]
    assert len(texts) == 2 * (2 * nodes + nodes + 3 + 1)  # operations, nodes and a title
    for (one, first), (other, second) in itertools.combinations(zip(boxes, texts, strict=True), 2):
        assert not one.overlaps(other), (first.get_text(), second.get_text())
    for box in boxes:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1


def test_a_name_stands_beside_its_input_and_above_its_node():
    figure = as_figure({"normal": cell_graph(CELL)})
    places = {text.get_text(): text.get_position() for text in figure.axes[0].texts}
    expected = {
        "sep_conv_3x3": ("$c_{k-2}$", "0"),
        "skip_connect": ("$c_{k-1}$", "0"),
        "conv_1x5_5x1\ndil_conv_3x3": ("0", "1"),
    }
    for name, (source, target) in expected.items():
        assert places[name] == (places[target][0], places[source][1])
        assert places[name][0] > places[source][0]
        assert places[name][1] > places[target][1]


# --- Graphviz -------------------------------------------------------------------------------------------------------


def test_every_edge_is_told_to_graphviz():
    text = as_dot({"normal": cell_graph(CELL), 're"duction': cell_graph(CELL)})
    for name, _ in CELL:
        assert text.count(f'label="{name}"') == 2
    assert text.count("{") == text.count("}")
    assert r'label="re\"duction"' in text
    assert text.count("c<sub>k-1</sub>") == 2
    arrows = [line for line in text.splitlines() if "->" in line]
    assert sum(line.count("->") for line in arrows) == 2 * (2 * len(CELL) + 2)


def test_graphviz_draws_where_it_is_installed(graphviz, tmp_path):
    graphviz("Path(sys.argv[-1]).write_text(sys.argv[1] + sys.stdin.read())")
    draw_genotype({"normal": CELL}, tmp_path / "genotype.png")
    assert (tmp_path / "genotype.png").read_text() == "-Tpng" + as_dot({"normal": cell_graph(CELL)})
    assert set(contents(tmp_path)) == {"dot", "genotype.png"}


@pytest.mark.parametrize("body", ["sys.exit('no fonts')", "pass", "time.sleep(60)", "import nothing_of_this_name"])
def test_matplotlib_draws_where_graphviz_fails(graphviz, monkeypatch, tmp_path, body):
    monkeypatch.setattr(cell_picture, "GRAPHVIZ_SECONDS", 0.5)
    graphviz(body)
    draw_genotype({"normal": CELL}, tmp_path / "genotype.png")
    size_of(tmp_path / "genotype.png")
    assert set(contents(tmp_path)) == {"dot", "genotype.png"}
