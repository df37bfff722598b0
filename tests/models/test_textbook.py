"""The benchmarks' textbook supernet computes what the supernet does: so their times can be compared."""

import torch

from search_space.normalizers import AnnealedNormalizer
from tests.benchmarks.textbook import Textbook
from tests.helpers import random_images, tiny_supernet


def test_textbook_has_the_supernets_output_and_gradients():
    supernet, architecture = tiny_supernet(layers=4, reduction_layers=(1, 3))
    textbook = Textbook(supernet, architecture).double()
    images, keep = random_images(4), supernet.draw_drop_path(4, 0.3, torch.Generator().manual_seed(0)).double()
    mixtures = architecture.mixtures(AnnealedNormalizer("softmax", 0.7, 0.0), 0.05)
    outputs = (supernet(images, mixtures, keep), textbook(images, 0.7, 0.05, keep))
    torch.testing.assert_close(*outputs)
    for output in outputs:
        output.square().sum().backward()
    pairs = list(zip(architecture.parameters(), textbook.architecture(), strict=True))
    for source, cell in zip(supernet.cells, textbook.cells, strict=True):
        pairs += zip(source.inputs[0].parameters(), cell.older.parameters(), strict=True)
        edge = source.sources[1].to_node["1"]["sep_conv_3x3"]
        operation = cell.edges[3][supernet.settings.primitives.index("sep_conv_3x3")]  # the edge from state 1 to node 1
        pairs += zip(edge.parameters(), operation.parameters(), strict=True)
    pairs += zip(supernet.stem.parameters(), textbook.stem.parameters(), strict=True)
    for actual, expected in pairs:
        if expected.grad is None:
            assert actual.grad is None
        else:
            torch.testing.assert_close(actual.grad, expected.grad)
