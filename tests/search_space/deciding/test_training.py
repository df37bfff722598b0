"""The three phases of a training that decides."""

import io
from dataclasses import replace

import pytest
import torch

from search_space.deciding.class_means import class_mean_loss
from search_space.deciding.training import DECIDED, FREE, SEARCH, DecidingTraining, widen_gaps
from search_space.genotype import read_genotype
from search_space.primitives import FEW_SHOT
from search_space.search_network import SearchNetwork
from search_space.settings import DecidingSettings
from tests.helpers import tiny_supernet
from utils.data.labelled_images import LabelledImages
from utils.data.views import DRAWINGS, Views
from utils.errors import InputError
from utils.run.ranks import Ranks

# 6 classes of 4 images a batch, 5 batches an epoch.
SETTINGS = DecidingSettings(epochs=2, batch_size=24, micro_batch=12, lr=2e-3, work=0.19, free=0.3, search=0.5)
UNCHANGED = Views(zoom=1.0, stretch=0.0, shift=0.0, turn=0.0, flip=False, colours=0.0)


def read(classes, numbers):
    """Classes differ in what part of the image is bright."""
    pixels = torch.stack([torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(n)) for n in numbers]) * 0.3
    for image, label in zip(pixels, classes, strict=True):
        image[:, :, label : label + 3] += 0.7
    return pixels


def a_training(settings=SETTINGS, views=UNCHANGED, counts=(21,) * 6, **net) -> DecidingTraining:
    supernet, architecture = tiny_supernet(**net)
    network = SearchNetwork(supernet.float(), architecture.float())
    return DecidingTraining(network, LabelledImages(counts, read), views, settings, seed=1)


def test_alpha_and_beta_move_in_the_search_alone():
    training, phases = a_training(), []
    for step in range(training.steps):
        before = {name: row.detach().clone() for name, row in training.architecture.named_parameters()}
        phases.append(training.phase)
        training.advance(Ranks())
        moved = any(not torch.equal(row, before[name]) for name, row in training.architecture.named_parameters())
        # The first decided step widens the gaps.
        assert moved == (phases[-1] == SEARCH or step == 8)
    assert phases == [FREE] * 3 + [SEARCH] * 5 + [DECIDED] * 2


def test_a_batch_holds_as_many_images_of_each_class_and_a_micro_batch_different_classes():
    training = a_training()
    for step in range(training.steps):
        training.step = step
        parts = training.micro_batches(whole=False)
        rows = torch.cat(parts).tolist()
        assert len({tuple(row) for row in rows}) == 24
        assert sorted(label for label, _ in rows) == [label for label in range(6) for _ in range(4)]
        assert max(number for _, number in rows) < 20  # the last is held out


def test_the_gradient_is_that_of_the_loss_of_all_images_by_ordinary_back_propagation():
    searching = replace(SETTINGS, free=0.0, search=1.0)
    training, other = a_training(searching), a_training(searching)
    training.step = other.step = 1
    loss, _ = training.backward(Ranks())
    for whole in (False, True):  # one of them is what was drawn
        mixtures, parts = other.mixtures(relaxed=False), other.micro_batches(whole)
        features = torch.cat([other.supernet.features(other.images.read(rows)[0], mixtures) for rows in parts])
        expected, _ = class_mean_loss(features.view(4, 6, -1).transpose(0, 1))
        if expected.item() == pytest.approx(loss, rel=1e-5):
            break
    expected.backward()
    for own, ordinary in zip(training.trained, other.trained, strict=True):
        assert (own.grad is None) == (ordinary.grad is None)
        if own.grad is not None:
            torch.testing.assert_close(own.grad, ordinary.grad, rtol=1e-3, atol=1e-5)


def test_it_learns_and_the_places_stay_tied():
    training = a_training(replace(SETTINGS, epochs=16, lr=0.02, free=0.25, search=0.25), init_channels=16)
    losses = [training.advance(Ranks())[0] for _ in range(training.steps)]
    assert sum(losses[-10:]) < 0.7 * sum(losses[:10])
    assert training.held_out_accuracy(Ranks()) > 0.6
    first, second = (dict(cell.named_parameters()) for cell in training.supernet.cells)
    shared = first.keys() & second.keys()
    assert shared
    assert all(torch.equal(first[name], second[name]) for name in shared)


def test_it_comes_down_to_the_work_that_is_allowed():
    shares = []
    for work_weight in (0.0, 100.0):
        settings = replace(SETTINGS, epochs=12, free=0.0, search=1.0, alpha_lr=0.1, work=0.0, work_weight=work_weight)
        training = a_training(settings, init_channels=8)
        for _ in range(training.steps):
            training.advance(Ranks())
        shares.append(training.work.share(training.architecture).item())
    assert shares[1] < shares[0]


def test_it_goes_on_after_a_stop_to_the_same_network():
    whole, stopped = a_training(views=DRAWINGS), a_training(views=DRAWINGS)
    figures = [whole.advance(Ranks()) for _ in range(10)]
    assert [stopped.advance(Ranks()) for _ in range(6)] == figures[:6]
    file = io.BytesIO()
    torch.save(stopped.state(), file)
    resumed = a_training(views=DRAWINGS)
    resumed.load(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert [resumed.advance(Ranks()) for _ in range(4)] == figures[6:]
    for own, other in zip(whole.network.parameters(), resumed.network.parameters(), strict=True):
        assert torch.equal(own, other)


def test_the_learning_rate_falls_to_zero_once_it_is_decided():
    training = a_training(replace(SETTINGS, epochs=80, lr=1.0, free=0.25, search=0.25))
    rates = {}
    for rates_of in (0, 199, 200, 399):
        training.step = rates_of
        rates[rates_of] = training.lr()
    assert rates[0] == pytest.approx(1 / 4)  # a hundredth of 400 steps
    assert rates[199] == pytest.approx(0.5, abs=0.01)
    assert rates[200] == pytest.approx(1)
    assert rates[399] == pytest.approx(0, abs=1e-3)


def test_classes_of_two_images_are_refused():
    with pytest.raises(InputError, match="three images of each class"):
        a_training(counts=(21, 2, 21))


def test_gaps_are_widened_and_the_genotype_stays():
    _, architecture = tiny_supernet()
    before = read_genotype(architecture, FEW_SHOT)
    widen_gaps(architecture, 5.0)
    assert read_genotype(architecture, FEW_SHOT) == before
    for row in architecture.parameters():
        if len(row) > 1:
            first, second = row.topk(2).values
            assert first - second >= 5.0 - 1e-9
