"""Drawn paths against the Gumbel softmax, written out."""

import torch

from models.supernet import NORMAL, REDUCTION
from search_space.deciding.paths import draw_paths
from tests.helpers import random_images, tiny_supernet


def a_draw(seed: int, temperature: float = 1.0):
    supernet, architecture = tiny_supernet(nodes=3)
    generator = torch.Generator().manual_seed(seed)
    return supernet, architecture, draw_paths(architecture, [NORMAL, REDUCTION], temperature, generator)


def test_a_path_is_one_candidate_on_two_edges_of_each_node():
    for seed in range(20):
        _, architecture, paths = a_draw(seed)
        for path in paths.values():
            run = [
                (source, node) for (source, node), row in zip(architecture.edges, path.active, strict=True) if any(row)
            ]
            assert [node for _, node in run] == [0, 0, 1, 1, 2, 2]
            assert all(sum(row) <= 1 for row in path.active)
            torch.testing.assert_close(path.coefficients, torch.tensor(path.active).double())


def test_a_candidate_is_drawn_as_often_as_its_probability_says():
    _, architecture = tiny_supernet()
    generator, drawn = torch.Generator().manual_seed(0), torch.zeros(7)
    for _ in range(2000):
        path = draw_paths(architecture, [NORMAL], 0.5, generator)[NORMAL]  # node 0 has one pair: edge 0 is always run
        drawn += torch.tensor(path.active[0])
    expected = architecture.alpha[NORMAL][0].detach().softmax(0)
    torch.testing.assert_close(drawn.double() / 2000, expected, rtol=0, atol=0.04)


def test_alpha_gets_the_gradient_of_the_gumbel_softmax():
    """Edge 0 of one node: the gradient of its weights w is that of <g, softmax((alpha + noise) / T)>."""
    supernet, architecture = tiny_supernet(nodes=1, layers=1, reduction_layers=())
    path = draw_paths(architecture, [NORMAL], 0.7, torch.Generator().manual_seed(3))[NORMAL]
    path.coefficients.retain_grad()
    supernet(random_images(4), {NORMAL: path}).square().sum().backward()
    generator = torch.Generator().manual_seed(3)
    noise = -torch.empty(7).exponential_(generator=generator).log()
    alpha = architecture.alpha[NORMAL][0].detach().clone().requires_grad_()
    soft = torch.softmax((alpha + noise.double()) / 0.7, 0)
    (soft * path.coefficients.grad[0]).sum().backward()
    torch.testing.assert_close(architecture.alpha[NORMAL][0].grad, alpha.grad)
    assert alpha.grad.abs().sum() > 0
