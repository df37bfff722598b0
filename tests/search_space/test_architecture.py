"""alpha and beta: their shapes, their start, and the weights that follow from them."""

import math
from itertools import combinations

import pytest
import torch

from search_space.architecture import Architecture, Choice, input_groups
from search_space.normalizers import AnnealedNormalizer
from tests.helpers import (
    TYPES,
    build_supernet,
    edges_of,
    tiny_settings,
)

SOFTMAX = AnnealedNormalizer("softmax", 1.0, 0.0)


def make(nodes: int = 3, candidates: int = 7, edge_weights: str = "pairs") -> Architecture:
    return Architecture(nodes, candidates, torch.Generator().manual_seed(0), edge_weights)


@pytest.mark.parametrize(("edge_weights", "sizes"), [("pairs", (1, 3, 6)), ("edges", (2, 3, 4)), ("equal", ())])
def test_a_parameter_for_each_edge_and_for_each_pair_or_input_of_each_node_of_each_type(edge_weights, sizes):
    shapes = {name: tuple(parameter.shape) for name, parameter in make(edge_weights=edge_weights).named_parameters()}
    alpha = {f"alpha.{kind}.{edge}": (7,) for kind in TYPES for edge in range(9)}
    beta = {f"beta.{kind}.{node}": (size,) for kind in TYPES for node, size in enumerate(sizes)}
    assert shapes == alpha | beta


def test_groups_of_inputs():
    assert input_groups(1, "pairs") == [(0, 1), (0, 2), (1, 2)]
    assert input_groups(1, "edges") == [(0,), (1,), (2,)]
    assert input_groups(1, "equal") == []


def test_alpha_starts_the_same_whatever_weighs_the_edges():
    first, *others = (make(edge_weights=edge_weights) for edge_weights in ("pairs", "edges", "equal"))
    for other in others:
        for kind in TYPES:
            assert all(torch.equal(a, b) for a, b in zip(first.alpha[kind], other.alpha[kind], strict=True))


def test_starts_at_a_thousandth_of_a_standard_normal():
    values = torch.cat([p.detach().flatten() for p in make(nodes=6, candidates=40).parameters()])
    assert values.mean().item() == pytest.approx(0, abs=1e-4)
    assert values.std().item() == pytest.approx(1e-3, rel=0.05)


@pytest.mark.parametrize("nodes", [1, 2, 3, 4])
def test_weight_of_an_edge_is_the_sum_over_the_pairs_that_hold_it(nodes):
    architecture = make(nodes)
    with torch.no_grad():
        for beta in architecture.beta["reduction"]:
            beta.normal_(generator=torch.Generator().manual_seed(1))
    pairs = [torch.softmax(beta / 0.5, 0) for beta in architecture.beta["reduction"]]
    expected = [
        sum(w.item() for w, pair in zip(pairs[node], combinations(range(node + 2), 2), strict=True) if source in pair)
        for node in range(nodes)
        for source in range(node + 2)
    ]
    weights = architecture.edge_weights("reduction", AnnealedNormalizer("softmax", 0.5, 0.0))
    assert weights.tolist() == pytest.approx(expected)


def test_edge_weights_of_a_node_sum_to_two():
    weights = make().edge_weights("normal", SOFTMAX)
    assert [part.sum().item() for part in weights.split([2, 3, 4])] == pytest.approx([2, 2, 2])


@pytest.mark.parametrize("nodes", [1, 2, 4])
def test_weights_of_single_edges_are_a_softmax_over_a_nodes_inputs(nodes):
    architecture = spread(make(nodes, edge_weights="edges"))
    weights = architecture.edge_weights("reduction", AnnealedNormalizer("softmax", 0.5, 0.0))
    start = 0
    for node, beta in enumerate(architecture.beta["reduction"]):
        exponentials = [math.exp(value / 0.5) for value in beta.tolist()]
        expected = [exponential / sum(exponentials) for exponential in exponentials]
        assert weights[start : start + node + 2].tolist() == pytest.approx(expected, rel=1e-5)
        start += node + 2
    assert start == len(weights)


def test_equal_weights_are_one_and_the_coefficients_the_candidates_probabilities():
    architecture = spread(make(edge_weights="equal"))
    for kind in TYPES:
        assert architecture.edge_weights(kind, SOFTMAX).tolist() == [1.0] * 9
        expected = torch.stack([torch.softmax(alpha, 0) for alpha in architecture.alpha[kind]])
        torch.testing.assert_close(architecture.mixtures(SOFTMAX, 0.0)[kind].coefficients, expected)


def test_mixture_says_what_runs_and_what_is_trained():
    architecture = make(nodes=2, candidates=3)
    with torch.no_grad():
        rows = [[0.0, 0, -9], [0, -9, 0], [0, 0, 0], [9, 0, 0], [0, 0, 0]]
        for alpha, row in zip(architecture.alpha["normal"], rows, strict=True):
            alpha.copy_(torch.tensor(row))
    ops = {kind: [{0}, {2}, {0, 1}, {0}, {1}] for kind in TYPES}
    pairs = {kind: [(0, 1), (0, 2)] for kind in TYPES}
    mixture = architecture.mixtures(SOFTMAX, 0.01, Choice(ops, pairs))["normal"]
    assert mixture.active == [
        [True, True, False],
        [True, False, True],
        [True, True, True],
        [True, False, False],
        [True, True, True],
    ]
    assert mixture.trained == [
        [True, False, False],
        [False, False, True],
        [True, True, False],
        [False, False, False],  # node 1 reads its pair (0, 2): not state 1
        [False, True, False],
    ]


def spread(architecture: Architecture) -> Architecture:
    """Moves alpha and beta far from uniform."""
    with torch.no_grad():
        for parameter in architecture.parameters():
            parameter.mul_(1000)
    return architecture


PAIRS = {"normal": [(0, 1), (1, 2), (0, 3)], "reduction": [(0, 1), (0, 2), (2, 3)]}


def test_probabilities_of_candidates_are_each_edges_own():
    architecture = spread(make())
    for kind in TYPES:
        rows = [torch.softmax(alpha / 0.5, 0) for alpha in architecture.alpha[kind]]
        probabilities = architecture.op_probabilities(kind, AnnealedNormalizer("softmax", 0.5, 0.0))
        torch.testing.assert_close(probabilities, torch.stack(rows))


@pytest.mark.parametrize("edge_weights", ["pairs", "edges"])
def test_noise_is_that_of_the_edge_and_of_the_node(edge_weights):
    architecture = spread(make(edge_weights=edge_weights))
    normalizer = AnnealedNormalizer("gumbel_softmax", 0.5, 0.0)
    noise = architecture.draw_noise(torch.Generator().manual_seed(2))
    assert {name: n.shape for name, n in noise.items()} == {n: p.shape for n, p in architecture.named_parameters()}
    rows = [normalizer(alpha, noise[f"alpha.normal.{edge}"]) for edge, alpha in enumerate(architecture.alpha["normal"])]
    noisy = architecture.op_probabilities("normal", normalizer, Choice(noise=noise))
    torch.testing.assert_close(noisy, torch.stack(rows))
    assert (noisy - architecture.op_probabilities("normal", normalizer)).abs().max() > 0.1
    weights, without = (architecture.edge_weights("normal", normalizer, Choice(noise=draw)) for draw in (noise, None))
    assert (weights - without).abs().max() > 0.1


@pytest.mark.parametrize("kind", TYPES)
def test_edge_outside_the_chosen_pair_gets_no_gradient(kind):
    """None and not zeros: an optimizer steps zeros, by weight decay alone."""
    architecture = spread(make())
    everything = architecture.mixtures(SOFTMAX, 0.0)[kind].coefficients
    coefficients = architecture.mixtures(SOFTMAX, 0.0, Choice(pairs=PAIRS))[kind].coefficients
    assert torch.equal(coefficients, everything)
    before = {name: parameter.detach().clone() for name, parameter in architecture.named_parameters()}
    optimizer = torch.optim.Adam(architecture.parameters(), 0.1, (0.0, 0.999), weight_decay=1e-3, fused=True)
    (coefficients * torch.rand_like(coefficients)).sum().backward()
    optimizer.step()
    moved = {name for name, parameter in architecture.named_parameters() if not torch.equal(parameter, before[name])}
    chosen = {f"alpha.{kind}.{edge}" for edge, (source, node) in enumerate(edges_of(3)) if source in PAIRS[kind][node]}
    assert len(chosen) == 6
    assert {name for name, p in architecture.named_parameters() if p.grad is not None} == moved
    assert moved == chosen | {f"beta.{kind}.{node}" for node in range(3)}


def test_build_is_the_same_for_the_same_seed_and_leaves_the_global_generator_alone():
    state = torch.get_rng_state()
    first, second, other = (build_supernet(tiny_settings(), 3, seed) for seed in (1, 1, 2))
    assert torch.equal(torch.get_rng_state(), state)
    for a, b, c in zip(*(module.parameters() for module, _ in (first, second, other)), strict=True):
        assert torch.equal(a, b)
        assert a.ndim == 1 or not torch.equal(a, c)
    for a, b, c in zip(*(module.parameters() for _, module in (first, second, other)), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
