"""The picture of a genotype: what is in it, and that its names do not meet."""

import itertools
import random

import pytest
from PIL import Image

from tests.conftest import contents, fill
from utils.errors import InputError
from utils.pictures.cells import cell_figure, cells_of, draw_genotype

OPERATIONS = ("conv_1x5_5x1", "max_pool_3x3", "skip_connect", "dil_conv_5x5")
CELL = [("sep_conv_3x3", 0), ("skip_connect", 1), ("conv_1x5_5x1", 2), ("dil_conv_3x3", 1)]


def random_cell(nodes: int, seed: int) -> list[tuple[str, int]]:
    draw = random.Random(seed)
    return [(draw.choice(OPERATIONS), state) for node in range(nodes) for state in draw.sample(range(node + 2), 2)]


def test_picture_is_a_png_whole_or_not_at_all(tmp_path, tiny_disk):
    draw_genotype({"normal": CELL, "reduction": CELL}, tmp_path / "genotype.png")
    with Image.open(tmp_path / "genotype.png") as image:
        assert image.format == "PNG"
        assert image.width > image.height > 100
    fill(tiny_disk)
    with pytest.raises(InputError, match=r"genotype\.png"):
        draw_genotype({"normal": CELL}, tiny_disk / "genotype.png")
    assert list(contents(tiny_disk)) == ["ballast"]


@pytest.mark.parametrize("nodes", [1, 3, 4, 8])
def test_no_two_names_meet_and_none_leaves_the_picture(nodes):
    figure = cell_figure({"normal": random_cell(nodes, 0), "reduction": random_cell(nodes, 1)})
    figure.canvas.draw()
    texts = [text for axes in figure.axes for text in axes.texts]
    boxes = [text.get_window_extent() for text in texts]
    assert len(texts) == 2 * (2 * nodes + nodes + 3)  # operations and states
    for (one, first), (other, second) in itertools.combinations(zip(boxes, texts, strict=True), 2):
        assert not one.overlaps(other), (first.get_text(), second.get_text())
    for box in boxes:
        assert figure.bbox.x0 <= box.x0 < box.x1 <= figure.bbox.x1
        assert figure.bbox.y0 <= box.y0 < box.y1 <= figure.bbox.y1


def test_a_name_stands_beside_its_input_and_above_its_node():
    places = {text.get_text(): text.get_position() for text in cell_figure({"normal": CELL}).axes[0].texts}
    states = ["$c_{k-2}$", "$c_{k-1}$", "0", "1"]
    for number, (name, source) in enumerate(CELL):
        source, target = states[source], states[number // 2 + 2]
        assert places[name] == (places[target][0], places[source][1])
        assert places[name][0] > places[source][0]
        assert places[name][1] > places[target][1]


@pytest.mark.parametrize(
    ("layers", "reductions", "titles"),
    [(2, [1], ["Normal cell", "Reduction cell"]), (2, [0, 1], ["Reduction cell"]), (3, [], ["Normal cell"])],
)
def test_the_cells_that_a_network_has(layers, reductions, titles):
    genotype = {"normal": CELL, "reduce": CELL}
    assert list(cells_of(genotype)) == ["Normal cell", "Reduction cell"]
    assert list(cells_of(genotype, {"layers": layers, "reduction_layers": reductions})) == titles
