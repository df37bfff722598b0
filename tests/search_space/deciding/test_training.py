"""The three phases of a training that decides."""

import pytest
import torch

from search_space.deciding.training import DECIDED, FREE, SEARCH, DecidingSettings, DecidingTraining, widen_gaps
from search_space.genotype import read_genotype
from search_space.primitives import FEW_SHOT
from search_space.search_network import SearchNetwork
from tests.helpers import tiny_supernet

SETTINGS = DecidingSettings(free_steps=3, search_steps=5, decided_steps=4)


def a_training(settings: DecidingSettings = SETTINGS, **net) -> DecidingTraining:
    supernet, architecture = tiny_supernet(**net)
    network = SearchNetwork(supernet.float(), architecture.float())
    return DecidingTraining(network, (1, 8, 8), settings, seed=1)


def a_batch(step: int, classes: int = 6, images: int = 3) -> torch.Tensor:
    """Classes that differ in what part of the image is bright."""
    generator = torch.Generator().manual_seed(step)
    pixels = 0.3 * torch.rand(classes, images, 1, 8, 8, generator=generator)
    for label in range(classes):
        pixels[label, :, :, label : label + 3] += 0.7
    return pixels


def test_alpha_and_beta_move_in_the_search_alone():
    training, before = a_training(), None
    for step in range(SETTINGS.steps):
        before = {name: row.detach().clone() for name, row in training.architecture.named_parameters()}
        training.advance(a_batch(step))
        moved = any(not torch.equal(row, before[name]) for name, row in training.architecture.named_parameters())
        # The first decided step widens the gaps.
        assert moved == (SETTINGS.phase(step) == SEARCH or step == 8)
    assert [SETTINGS.phase(step) for step in (0, 2, 3, 7, 8)] == [FREE, FREE, SEARCH, SEARCH, DECIDED]


def test_the_places_stay_tied_and_learn():
    settings = DecidingSettings(free_steps=20, search_steps=20, decided_steps=40, lr=0.02)
    training = a_training(settings, init_channels=16)
    losses = [training.advance(a_batch(step))[0] for step in range(settings.steps)]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    first, second = (dict(cell.named_parameters()) for cell in training.supernet.cells)
    shared = first.keys() & second.keys()
    assert shared
    assert all(torch.equal(first[name], second[name]) for name in shared)


def test_it_comes_down_to_the_work_that_is_allowed():
    shares = []
    for work_weight in (0.0, 100.0):
        settings = DecidingSettings(
            free_steps=0, search_steps=60, decided_steps=1, alpha_lr=0.1, work=0.0, work_weight=work_weight
        )
        training = a_training(settings, init_channels=8)
        for step in range(60):
            training.advance(a_batch(step))
        shares.append(training.work.share(training.architecture).item())
    assert shares[1] < shares[0]


def test_the_learning_rate_falls_to_zero_once_it_is_decided():
    settings = DecidingSettings(free_steps=100, search_steps=100, decided_steps=200, lr=1.0)
    assert settings.lr_of(0) == pytest.approx(1 / 50)
    assert settings.lr_of(199) == pytest.approx(0.5, abs=0.01)
    assert settings.lr_of(200) == pytest.approx(1)
    assert settings.lr_of(399) == pytest.approx(0, abs=1e-3)


def test_gaps_are_widened_and_the_genotype_stays():
    _, architecture = tiny_supernet()
    before = read_genotype(architecture, FEW_SHOT)
    widen_gaps(architecture, 5.0)
    assert read_genotype(architecture, FEW_SHOT) == before
    for row in architecture.parameters():
        if len(row) > 1:
            first, second = row.topk(2).values
            assert first - second >= 5.0 - 1e-9
