"""The relaxed and the found network give what the supernet gives, train by themselves, and count what they hold."""

from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from models.batch_norm import BatchNorm, average_statistics
from models.macs import count_macs
from models.pruned_network import PrunedNetwork
from models.search_cell import Mixture
from models.supernet import EDGES
from models.textbook_norm import with_textbook_norm
from search_space.normalizers import AnnealedNormalizer
from search_space.primitives import FEW_SHOT, FULL_TASK
from tests.found_network import found_network
from tests.helpers import WAYS, edges_of, random_images, tiny_supernet

PARTIAL = {"init_channels": 8, "partial_channels": 4, "edge_weights": EDGES}
NETS = {
    "few-shot": {},
    "full-task": {"primitives": FULL_TASK},
    "four cells": {"layers": 4, "reduction_layers": (1, 3), "nodes": 1},
    "consecutive reductions": {"reduction_layers": (0, 1), "layers": 3, "nodes": 1},
    "three colours": {"in_channels": 3, "init_channels": 4},
    "partial channels": PARTIAL,
}
CELLS = {
    "normal": [("sep_conv_3x3", 0), ("skip_connect", 1), ("max_pool_3x3", 0), ("dil_conv_3x3", 2)],
    "reduction": [("skip_connect", 0), ("avg_pool_3x3", 1), ("conv_1x5_5x1", 1), ("skip_connect", 2)],
}


def used_supernet(threshold: float = 0.0, size: tuple[int, int] = (6, 6), **changes):
    """A supernet whose BN has seen images, in eval mode, and its mixtures."""
    supernet, architecture = tiny_supernet(**changes)
    with torch.no_grad():
        mixtures = architecture.mixtures(AnnealedNormalizer("softmax", 0.7, 0.0), threshold)
        for seed in range(3):
            supernet.train()(random_images(8, size, supernet.settings.in_channels, seed), mixtures)
    return supernet.eval(), mixtures


def assert_same_logits(network, supernet, mixtures, size: tuple[int, int] = (6, 6)) -> None:
    """Of the network, and of its copy with PyTorch's BN, in eval mode; of the former in training mode too."""
    for training in (False, True):
        supernet.train(training)
        for number in (4, 1)[: 2 - training]:
            images = random_images(number, size, supernet.settings.in_channels, seed=9)
            with torch.no_grad():
                expected = supernet(images, mixtures)
            for one in [network.train(training)] + [with_textbook_norm(network)] * (not training):
                logits = one(images.clone())
                assert logits.shape == (number, WAYS)
                torch.testing.assert_close(logits, expected, rtol=1e-9, atol=1e-9)


# --- The relaxed network --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(6, 6), (5, 8)], ids=["even", "odd"])
@pytest.mark.parametrize("net", NETS)
def test_logits_are_those_of_the_supernet(net, size):
    supernet, mixtures = used_supernet(size=size, **NETS[net])
    assert_same_logits(PrunedNetwork(supernet, mixtures), supernet, mixtures, size)


def test_logits_under_soft_pruning_and_where_nothing_is_left_on_the_edges_of_a_node():
    supernet, mixtures = used_supernet(threshold=0.15)
    assert not all(all(row) for row in mixtures["normal"].active)
    assert_same_logits(PrunedNetwork(supernet, mixtures), supernet, mixtures)
    for cell_type, empty in (("normal", {0, 1}), ("reduction", {2, 3, 4})):
        active = [[edge not in empty] * len(FEW_SHOT) for edge in range(5)]
        mixtures[cell_type] = replace(mixtures[cell_type], active=active)
    assert_same_logits(PrunedNetwork(supernet, mixtures), supernet, mixtures)


def test_supernet_is_copied():
    supernet, mixtures = used_supernet()
    images = random_images(4)
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    network = PrunedNetwork(supernet, mixtures)
    expected = network(images)
    assert supernet.state_dict().keys() == before.keys()
    with torch.no_grad():
        supernet.train()(images, mixtures)
        for tensor in (*supernet.parameters(), *(mixture.coefficients for mixture in mixtures.values())):
            tensor.zero_()
    torch.testing.assert_close(network(images), expected, rtol=0, atol=0)


@pytest.mark.parametrize("cell", [{}, PARTIAL], ids=["plain", "partial channels"])
def test_trace_for_an_export_has_no_operation_in_place(cell):
    supernet, mixtures = used_supernet(layers=1, reduction_layers=(0,), nodes=1, **cell)
    network = with_textbook_norm(PrunedNetwork(supernet, mixtures)).requires_grad_(False)
    program = torch.export.export(network, (random_images(2),))
    names = {node.target.__name__ for node in program.graph.nodes if node.op == "call_function"}
    assert any(name.startswith("conv2d") for name in names)
    assert not any(name.split(".")[0].endswith("_") or "grad" in name for name in names)


# --- The found network ----------------------------------------------------------------------------------------------


def one_of_each(mixtures: dict[str, Mixture], cells: dict, primitives=FEW_SHOT) -> dict[str, Mixture]:
    """The mixtures with coefficients of zero but for what is chosen, by the definition of an edge's number."""
    found = {}
    for cell_type, entries in cells.items():
        chosen = torch.zeros_like(mixtures[cell_type].coefficients)
        for number, (name, source) in enumerate(entries):
            edge = edges_of(len(entries) // 2).index((source, number // 2))
            chosen[edge, primitives.index(name)] = 1.0
        found[cell_type] = replace(mixtures[cell_type], coefficients=chosen * mixtures[cell_type].coefficients)
    return found


@pytest.mark.parametrize("size", [(6, 6), (5, 8)], ids=["even", "odd"])
@pytest.mark.parametrize("reductions", [(1,), (0, 2)])
def test_found_network_is_the_supernet_with_every_other_coefficient_zero(reductions, size):
    supernet, mixtures = used_supernet(layers=3, reduction_layers=reductions, size=size)
    network = found_network(supernet, mixtures, CELLS)
    assert_same_logits(network, supernet, one_of_each(mixtures, CELLS), size)


def test_found_network_in_single_precision():
    supernet, mixtures = used_supernet()
    supernet.float()
    mixtures = {t: replace(mixture, coefficients=mixture.coefficients.float()) for t, mixture in mixtures.items()}
    images = random_images(4).float()
    logits = found_network(supernet, mixtures, CELLS)(images)
    torch.testing.assert_close(logits, supernet(images, one_of_each(mixtures, CELLS)), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("reductions", "cell_type"), [((), "normal"), ((0, 1), "reduction")])
def test_only_the_cell_types_of_the_network_are_needed(reductions, cell_type):
    supernet, mixtures = used_supernet(reduction_layers=reductions)
    network = found_network(supernet, mixtures, {cell_type: CELLS[cell_type]})
    assert_same_logits(network, supernet, one_of_each(mixtures, CELLS))


def test_parameters_and_macs_are_those_counted_by_hand():
    supernet, mixtures = used_supernet()
    network = found_network(supernet, mixtures, CELLS)
    # S = 4, C = 2: stem 9*4 and its BN 2*4; two inputs of S*C a cell, BN without parameters; head 4*3 + 3.
    # Normal: sep_conv_3x3 2*(9*2 + 2*2), dil_conv_3x3 9*2 + 2*2. Reduction: stride-2 skip 2*2, conv_1x5_5x1 2*(5*2*2).
    normal, reduction = 44 + 22, 4 + 40
    assert network.parameter_count == 44 + 2 * 16 + normal + reduction + 15
    # 8x8 pixels, 64, and 16 behind the reduction. The 5x1 convolution and all inputs of cells run where they write:
    # both inputs of both cells at 64. The 1x5 convolution strides in both directions.
    inputs = 4 * 8 * 64
    assert count_macs(network, (1, 8, 8)) == 36 * 64 + inputs + 64 * normal + 16 * reduction + 4 * 3


def test_nothing_is_held_of_what_was_not_chosen():
    supernet, mixtures = used_supernet()
    network = found_network(supernet, mixtures, CELLS)
    candidates = [module for cell in network.supernet.cells for module in cell.sources.modules()]
    kernels = sorted(module.kernel_size for module in candidates if isinstance(module, nn.Conv2d))
    assert kernels == sorted([(3, 3)] * 3 + [(1, 1)] * 5 + [(1, 5), (5, 1)])  # the stride-2 skip is two of 1x1
    assert sum(isinstance(module, BatchNorm) for module in candidates) == 7


def test_found_network_trains_by_itself_with_the_gradient_of_the_supernet():
    supernet, mixtures = used_supernet()
    supernet.train()
    network = found_network(supernet, mixtures, CELLS).train()
    images, labels = random_images(4), torch.tensor([0, 1, 2, 1])
    F.cross_entropy(network(images), labels).backward()
    F.cross_entropy(supernet(images, one_of_each(mixtures, CELLS)), labels).backward()
    expected = {tuple(p.shape): [] for p in supernet.parameters()}
    for parameter in supernet.parameters():
        if parameter.grad is not None and parameter.grad.any():
            expected[tuple(parameter.shape)].append(parameter.grad)
    for parameter in network.parameters():
        own = parameter.grad
        assert any(torch.allclose(own, other, rtol=1e-9, atol=1e-12) for other in expected[tuple(own.shape)])
    assert sum(map(len, expected.values())) == len(list(network.parameters()))
    before = {name: tensor.clone() for name, tensor in supernet.state_dict().items()}
    torch.optim.SGD(network.parameters(), 0.1).step()
    assert all(torch.equal(tensor, before[name]) for name, tensor in supernet.state_dict().items())


def test_statistics_are_averaged_anew():
    """Of a support set in micro-batches: the first BN's are those of the stem's convolution, worked out here."""
    network = found_network(*used_supernet(), CELLS)
    parts = [random_images(3, seed=1), random_images(5, seed=2)]
    average_statistics(network, parts, network)
    convolution, norm = network.supernet.stem
    outputs = [convolution(part) for part in parts]
    torch.testing.assert_close(norm.running_mean, sum(x.mean((0, 2, 3)) for x in outputs) / 2)
    torch.testing.assert_close(norm.running_var, sum(x.var((0, 2, 3)) for x in outputs) / 2)
    assert {int(norm.num_batches_tracked) for norm in network.modules() if isinstance(norm, BatchNorm)} == {2}
