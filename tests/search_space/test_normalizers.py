"""Normalizers and their annealing against the formulas."""

import math

import pytest
import torch

from search_space.architecture import gumbel_noise
from search_space.normalizers import AnnealedNormalizer, Normalizer

LOGITS = [0.5, -1.0, 2.0, 0.0]


@pytest.mark.parametrize("epochs", [2, 5, 10])
def test_temperature_goes_linearly_from_t_max_to_t_min(epochs):
    normalizer = Normalizer(t_max=1.0, t_min=0.1)
    for epoch in range(epochs):
        expected = 1.0 - epoch * (1.0 - 0.1) / (epochs - 1)
        assert normalizer.annealed(epoch, epochs).temperature == pytest.approx(expected)


def test_a_single_epoch_stays_at_t_max():
    assert Normalizer(t_max=0.8, t_min=0.1).annealed(0, 1).temperature == 0.8


def test_temperature_stays_without_annealing():
    assert Normalizer(anneal_mode="none", t_max=0.8).annealed(4, 5).temperature == 0.8


@pytest.mark.parametrize("temperature", [1.0, 0.1])
def test_softmax(temperature):
    total = sum(math.exp(x / temperature) for x in LOGITS)
    probabilities = AnnealedNormalizer("softmax", temperature, 0.0)(torch.tensor(LOGITS, dtype=torch.float64))
    assert probabilities.tolist() == pytest.approx([math.exp(x / temperature) / total for x in LOGITS])


@pytest.mark.parametrize(("epoch", "share"), [(0, 0.0), (1, 0.25), (4, 1.0)])
def test_relusoftmax(epoch, share):
    total, positive = sum(math.exp(x) for x in LOGITS), sum(max(x, 0) for x in LOGITS)
    expected = [(1 - share) * math.exp(x) / total + share * max(x, 0) / positive for x in LOGITS]
    normalizer = Normalizer("relusoftmax").annealed(epoch, 5)
    assert normalizer(torch.tensor(LOGITS, dtype=torch.float64)).tolist() == pytest.approx(expected)


@pytest.mark.parametrize("logits", [[-1.0, -2.0], [0.0, 0.0], [-1.0, 0.0]])
def test_relusoftmax_is_finite_where_no_logit_is_positive(logits):
    leaf = torch.tensor([logits, [1.0, 2.0]], requires_grad=True)
    probabilities = AnnealedNormalizer("relusoftmax", 1.0, 0.5)(leaf)
    probabilities[0, 0].backward()
    assert probabilities.isfinite().all()
    assert probabilities.sum(-1).tolist() == pytest.approx([1, 1])
    assert leaf.grad.isfinite().all()


def test_gumbel_softmax_adds_its_noise_before_the_temperature():
    logits, noise = torch.tensor(LOGITS), torch.tensor([0.3, 1.0, -0.2, 0.1])
    probabilities = AnnealedNormalizer("gumbel_softmax", 0.5, 0.0)(logits, noise)
    torch.testing.assert_close(probabilities, torch.softmax((logits + noise) / 0.5, -1))


def test_gumbel_noise_has_the_moments_of_a_standard_gumbel():
    noise = gumbel_noise((200_000,), torch.Generator().manual_seed(0)).double()
    assert noise.mean().item() == pytest.approx(0.5772, abs=0.02)
    assert noise.var().item() == pytest.approx(math.pi**2 / 6, rel=0.03)


def test_gumbel_softmax_is_largest_where_the_softmax_says_so_in_the_mean():
    logits = torch.tensor(LOGITS)
    noise = gumbel_noise((20_000, 4), torch.Generator().manual_seed(0))
    largest = AnnealedNormalizer("gumbel_softmax", 0.3, 0.0)(logits, noise).argmax(-1)
    frequency = torch.bincount(largest, minlength=4) / 20_000
    torch.testing.assert_close(frequency, torch.softmax(logits, -1), rtol=0, atol=0.015)
