"""The frozen supernet gives what the supernet in eval mode gives, from plain operations."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from models.frozen_supernet import FrozenSupernet
from models.supernet import EDGES
from search_space.normalizers import AnnealedNormalizer
from search_space.primitives import FEW_SHOT, FULL_TASK
from tests.helpers import WAYS, random_images, tiny_supernet

PARTIAL = {"init_channels": 8, "partial_channels": 4, "edge_weights": EDGES}
NETS = {
    "few-shot": {},
    "full-task": {"primitives": FULL_TASK},
    "four cells": {"layers": 4, "reduction_layers": (1, 3), "nodes": 1},
    "consecutive reductions": {"reduction_layers": (0, 1), "layers": 3, "nodes": 1},
    "three colours": {"in_channels": 3, "init_channels": 4},
    "partial channels": PARTIAL,
}


def used_supernet(threshold: float = 0.0, size: tuple[int, int] = (6, 6), **changes):
    """A supernet whose BN has seen images, in eval mode, and its mixtures."""
    supernet, architecture = tiny_supernet(**changes)
    with torch.no_grad():
        mixtures = architecture.mixtures(AnnealedNormalizer("softmax", 0.7, 0.0), threshold)
        for seed in range(3):
            supernet.train()(random_images(8, size, supernet.settings.in_channels, seed), mixtures)
    return supernet.eval(), mixtures


def assert_same_logits(supernet, mixtures, size: tuple[int, int] = (6, 6)) -> None:
    frozen = FrozenSupernet(supernet, mixtures)
    for number in (1, 4):
        images = random_images(number, size, supernet.settings.in_channels, seed=9)
        logits = frozen(images.clone())
        assert logits.shape == (number, WAYS)
        with torch.no_grad():
            torch.testing.assert_close(logits, supernet(images, mixtures), rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("size", [(6, 6), (5, 8)], ids=["even", "odd"])
@pytest.mark.parametrize("net", NETS)
def test_logits_are_those_of_the_supernet(net, size):
    assert_same_logits(*used_supernet(size=size, **NETS[net]), size)


def test_logits_under_soft_pruning():
    supernet, mixtures = used_supernet(threshold=0.15)
    assert not all(all(row) for row in mixtures["normal"].active)
    assert_same_logits(supernet, mixtures)


def test_logits_where_nothing_is_left_on_the_edges_of_a_node():
    supernet, mixtures = used_supernet()
    for cell_type, empty in (("normal", {0, 1}), ("reduction", {2, 3, 4})):
        active = [[edge not in empty] * len(FEW_SHOT) for edge in range(5)]
        mixtures[cell_type] = replace(mixtures[cell_type], active=active)
    assert_same_logits(supernet, mixtures)


def test_logits_in_single_precision_are_as_close_as_it_is():
    supernet, mixtures = used_supernet()
    supernet.float()
    mixtures = {
        cell_type: replace(mixture, coefficients=mixture.coefficients.float())
        for cell_type, mixture in mixtures.items()
    }
    images = random_images(4).float()
    with torch.no_grad():
        torch.testing.assert_close(
            FrozenSupernet(supernet, mixtures)(images), supernet(images, mixtures), rtol=1e-5, atol=1e-5
        )


def test_candidates_that_are_not_active_are_left_out():
    supernet, mixtures = used_supernet()
    only = FEW_SHOT.index("conv_3x3")
    for cell_type, mixture in mixtures.items():
        mixtures[cell_type] = replace(mixture, active=[[k == only for k in range(len(FEW_SHOT))]] * 5)
    frozen = FrozenSupernet(supernet, mixtures)
    # Of each of the two cells' five edges a depthwise and a pointwise convolution.
    candidates = [module for cell in frozen.supernet.cells for module in cell.sources.modules()]
    kernels = [tuple(module.kernel_size) for module in candidates if isinstance(module, nn.Conv2d)]
    assert sorted(kernels) == [(1, 1)] * 10 + [(3, 3)] * 10
    assert_same_logits(supernet, mixtures)


def test_supernet_is_copied():
    supernet, mixtures = used_supernet()
    images = random_images(4)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    frozen = FrozenSupernet(supernet, mixtures)
    expected = frozen(images)
    assert supernet.state_dict().keys() == before.keys()
    with torch.no_grad():
        supernet.train()(images, mixtures)
        for parameter in supernet.parameters():
            parameter.zero_()
        for mixture in mixtures.values():
            mixture.coefficients.zero_()
    torch.testing.assert_close(frozen(images), expected, rtol=0, atol=0)


def test_modules_are_those_that_exporters_know():
    frozen = FrozenSupernet(*used_supernet())
    norms = [module for module in frozen.modules() if isinstance(module, nn.BatchNorm2d)]
    assert {type(norm) for norm in norms} == {nn.BatchNorm2d}
    assert not any(module.training for module in frozen.modules())
    assert all(tensor.is_contiguous() for tensor in frozen.state_dict().values())
    assert not any(parameter.requires_grad for parameter in frozen.parameters())


@pytest.mark.parametrize("cell", [{}, PARTIAL], ids=["plain", "partial channels"])
def test_trace_has_no_operation_in_place(cell):
    supernet, mixtures = used_supernet(layers=1, reduction_layers=(0,), nodes=1, **cell)
    program = torch.export.export(FrozenSupernet(supernet, mixtures), (random_images(2),))
    names = {node.target.__name__ for node in program.graph.nodes if node.op == "call_function"}
    assert any(name.startswith("conv2d") for name in names)
    assert not any(name.split(".")[0].endswith("_") or "grad" in name for name in names)
