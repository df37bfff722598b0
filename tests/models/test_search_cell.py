"""The search cell: its edges, and how it shares what edges have in common."""

import torch
from torch import nn

from models.search_cell import Mixture, SearchCell, edge_list
from search_space.primitives import FEW_SHOT
from tests.helpers import random_images


def test_edges_go_node_by_node():
    assert edge_list(3) == [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (2, 2), (3, 2)]


def everything(edges: int) -> Mixture:
    on = [[True] * 7 for _ in range(edges)]
    return Mixture(torch.full((edges, 7), 0.1, dtype=torch.float64), on, on)


def test_pools_run_once_per_state_and_not_once_per_edge():
    cell = SearchCell(FEW_SHOT, 2, 3).double()
    ran = []
    for module in cell.modules():
        if isinstance(module, (nn.MaxPool2d, nn.AvgPool2d)):
            module.register_forward_hook(lambda *_: ran.append(1))
    cell(random_images(2, channels=6), random_images(2, channels=6, seed=1), everything(9))
    assert len(ran) == 2 * 4  # two pools on the two inputs and the first two nodes


def test_cell_output_is_its_nodes_side_by_side_at_the_new_size():
    x = random_images(2, (7, 8), channels=6)
    assert SearchCell(FEW_SHOT, 2, 3).double()(x, x, everything(9)).shape == (2, 6, 7, 8)
    assert SearchCell(FEW_SHOT, 2, 3, reduction=True).double()(x, x, everything(9)).shape == (2, 6, 4, 4)
    older = random_images(2, (14, 15), channels=6)
    after = SearchCell(FEW_SHOT, 2, 3, after_reduction=True).double()
    assert after(older, x, everything(9)).shape == (2, 6, 7, 8)


def test_inputs_are_left_as_they_were():
    older, newer = random_images(2, channels=6), random_images(2, channels=6, seed=1)
    before = older.clone(), newer.clone()
    SearchCell(FEW_SHOT, 2, 3).double()(older, newer, everything(9))
    assert torch.equal(older, before[0])
    assert torch.equal(newer, before[1])
