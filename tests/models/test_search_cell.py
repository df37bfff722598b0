"""The search cell: its edges, what it reads and gives, and how it shares what edges have in common."""

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.operations import MaxPool, Skip
from models.search_cell import NEWER, OLDER, Mixture, SearchCell, convolve_states, edge_list
from search_space.primitives import FEW_SHOT
from tests.helpers import random_images, reference_norm, reference_reduce

SHARED = (MaxPool, nn.AvgPool2d, Skip)


def test_edges_go_node_by_node():
    assert edge_list(3) == [(0, 0), (1, 0), (0, 1), (1, 1), (2, 1), (0, 2), (1, 2), (2, 2), (3, 2)]


def everything(edges: int) -> Mixture:
    on = [[True] * 7 for _ in range(edges)]
    return Mixture(torch.full((edges, 7), 0.1, dtype=torch.float64), on, on)


def random_states(number: int, size: tuple[int, int] = (6, 6), channels: int = 2) -> list[torch.Tensor]:
    """Of both signs."""
    return [random_images(2, size, channels, seed) - 0.5 for seed in range(number)]


def shapes(states: list[torch.Tensor]) -> list[tuple[int, ...]]:
    return [tuple(state.shape) for state in states]


def test_pools_and_skips_run_once_per_state_and_not_once_per_edge():
    cell = SearchCell(FEW_SHOT, 2, 3).double()
    ran = []
    for module in cell.modules():
        if isinstance(module, SHARED):
            module.register_forward_hook(lambda module, *_: ran.append(type(module)))
    cell(*random_states(2), everything(9))
    for kind in SHARED:
        assert ran.count(kind) == 4  # on the two inputs and the first two nodes


def test_cell_gives_the_states_of_its_nodes_at_the_new_size():
    older, newer = random_states(2, (7, 8))
    assert shapes(SearchCell(FEW_SHOT, 2, 3).double()(older, newer, everything(9))) == [(2, 2, 7, 8)] * 3
    reduction = SearchCell(FEW_SHOT, 2, 3, reduction=True).double()
    assert shapes(reduction(older, newer, everything(9))) == [(2, 2, 4, 4)] * 3


@pytest.mark.parametrize("after_reduction", [False, True], ids=["same size", "after a reduction"])
def test_inputs_are_read_from_the_nodes_of_the_outputs_before(after_reduction):
    cell = SearchCell(FEW_SHOT, 2, 3, after_reduction=after_reduction).double()
    outputs = {OLDER: random_states(3, (13, 16) if after_reduction else (7, 8)), NEWER: random_states(3, (7, 8))}
    for side, output in outputs.items():
        before = [state.clone() for state in output]
        (convolved,) = convolve_states([cell.inputs[side]], iter(output))
        actual = cell.inputs[side].norm(convolved)
        assert actual.shape == (2, 2, 7, 8)
        side_by_side, weights = torch.cat(output, dim=1), list(cell.inputs[side].parameters())
        if after_reduction and side == OLDER:
            expected = reference_reduce(side_by_side, weights)
        else:
            expected = reference_norm(F.conv2d(F.relu(side_by_side), *weights))
        torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)
        assert all(torch.equal(state, kept) for state, kept in zip(output, before, strict=True))


def test_readers_of_one_output_read_it_as_each_would_alone():
    readers = [SearchCell(FEW_SHOT, 2, 3).double().inputs[NEWER] for _ in range(3)]
    states = random_states(3)
    together = convolve_states(readers, iter(states))
    for reader, read in zip(readers, together, strict=True):
        torch.testing.assert_close(read, *convolve_states([reader], states), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("reduction", [False, True], ids=["normal", "reduction"])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last], ids=["contiguous", "channels last"])
@pytest.mark.parametrize("with_gradient", [True, False], ids=["with gradient", "without"])
def test_inputs_are_left_as_they_were(with_gradient, layout, reduction):
    inputs = [state.contiguous(memory_format=layout) for state in random_states(2)]
    before = [state.clone() for state in inputs]
    cell = SearchCell(FEW_SHOT, 2, 3, reduction).double().to(memory_format=torch.channels_last)
    with torch.set_grad_enabled(with_gradient):
        cell(*inputs, everything(9))
    assert torch.equal(inputs[OLDER], before[OLDER])
    assert torch.equal(inputs[NEWER], before[NEWER])
