import io

import pytest
import torch
from torch.nn import functional as F

from models.supernet import SupernetSettings
from search_space.pretraining.training import BETAS, WARM_UP, WEIGHT_DECAY, Pretraining
from search_space.primitives import FEW_SHOT
from search_space.search_network import SearchNetwork
from search_space.settings import PretrainingSettings
from utils.data.labelled_images import LabelledImages
from utils.data.views import Views
from utils.errors import InputError
from utils.run.ranks import Ranks

NETWORK = SupernetSettings(1, 2, 2, 2, (1,), FEW_SHOT)
UNCHANGED = Views(zoom=1.0, stretch=0.0, shift=0.0, turn=0.0, flip=False, colours=0.0)


def read(classes, numbers):
    """Class 0 is dark at the top, class 1 at the bottom, class 2 nowhere; the images of a class differ by noise."""
    pixels = torch.stack([torch.rand(1, 8, 8, generator=torch.Generator().manual_seed(n)) for n in numbers]) / 4
    for image, label in zip(pixels, classes, strict=True):
        image[:, 4 * label : 4 * label + 4] += 0.7
    return pixels


def pretraining(
    epochs=4, batch_size=12, micro_batch=6, lr=0.01, random_architectures=False, views=UNCHANGED, seed=1, dense=False
):
    network = SearchNetwork.build(NETWORK, 3, seed)
    settings = PretrainingSettings(epochs, batch_size, micro_batch, lr, random_architectures, dense)
    return Pretraining(network, LabelledImages([21, 21, 21], read), views, settings, seed)


def test_a_step_is_adamw_on_the_mean_over_the_places_of_the_mean_over_the_micro_batches():
    training = pretraining()
    apart = SearchNetwork.build(NETWORK, 3, 1)  # cells that are not tied, by ordinary back-propagation
    apart.supernet.load_state_dict(training.network.supernet.state_dict())
    before = {name: weight.clone() for name, weight in training.tied.parameters.items()}
    rows = training.batch()
    losses = []
    for number, part in enumerate(rows.split(6)):
        images, labels = training.images.read(part)
        losses.append(F.cross_entropy(apart.supernet(images, training.mixtures(number)), labels))
    (sum(losses) / 2).backward()
    lr = training.lr()
    loss, _ = training.advance(Ranks())

    assert loss == pytest.approx(sum(losses).item() / 2, rel=1e-5)
    for name, weight in training.tied.parameters.items():
        places = [dict(cell.named_parameters())[name].grad for cell in apart.supernet.cells if has(cell, name)]
        gradient = torch.stack(places).mean(0)
        first = before[name] * (1 - lr * WEIGHT_DECAY) - lr * gradient / (gradient.abs() + 1e-8)
        clear = gradient.abs() > 1e-5  # where Adam's first step is its sign, whatever rounding there is
        torch.testing.assert_close(weight[clear], first[clear], rtol=1e-4, atol=1e-5)


def has(cell, name):
    return name in dict(cell.named_parameters())


def test_it_learns_what_can_be_learnt_and_the_cells_stay_tied():
    training = pretraining(epochs=15, random_architectures=True)
    losses = [training.advance(Ranks())[0] for _ in range(training.steps)]
    assert losses[0] > 0.9
    assert sum(losses[-5:]) / 5 < 0.75
    assert training.held_out_accuracy(Ranks()) == 1.0
    first, second = (dict(cell.named_parameters()) for cell in training.network.supernet.cells)
    shared = first.keys() & second.keys()
    assert shared
    assert all(torch.equal(first[name], second[name]) for name in shared)


def test_as_dense_convolutions_in_bfloat16_a_step_is_about_the_same():
    step_by_step, dense = pretraining(random_architectures=True), pretraining(random_architectures=True, dense=True)
    for training in (step_by_step, dense):
        training.step = training.steps - 10  # where candidates are pruned
    exact, rounded = step_by_step.advance(Ranks()), dense.advance(Ranks())
    assert rounded[0] == pytest.approx(exact[0], rel=0.02)
    moved = [weight.grad for weight in step_by_step.weights]
    alike = [
        F.cosine_similarity(a.flatten(), b.grad.flatten(), dim=0)
        for a, b in zip(moved, dense.weights, strict=True)
        if a.any()
    ]
    assert torch.stack(alike).median() > 0.99


def test_it_goes_on_after_a_stop_to_the_same_weights():
    whole, stopped = pretraining(random_architectures=True), pretraining(random_architectures=True)
    figures = [whole.advance(Ranks()) for _ in range(7)]
    assert [stopped.advance(Ranks()) for _ in range(4)] == figures[:4]
    file = io.BytesIO()
    torch.save(stopped.state(), file)
    resumed = pretraining(random_architectures=True)
    resumed.load(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    assert [resumed.advance(Ranks()) for _ in range(3)] == figures[4:]
    for weight, other in zip(whole.weights, resumed.weights, strict=True):
        assert torch.equal(weight, other)


def test_random_architectures_sharpen_until_an_edge_has_one_candidate_while_the_other_half_stays_whole():
    training = pretraining(random_architectures=True)
    softest = training.mixtures(1)["normal"].coefficients
    training.step = training.steps - 1
    whole, sharp = training.mixtures(0)["reduction"], training.mixtures(1)["reduction"]
    assert (whole.coefficients - whole.coefficients.mean(1, keepdim=True)).abs().max() < 1e-3
    assert softest.max() / softest.min() < 100
    # Node 0 reads two states, node 1 three: the probabilities of the pairs, and so of the edges, sum to two each.
    assert sharp.coefficients[:2].sum() == pytest.approx(2, abs=1e-4)
    assert sharp.coefficients[2:].sum() == pytest.approx(2, abs=1e-4)
    assert sum(sum(row) for row in sharp.active) < 12  # of 35
    # Another micro-batch of the same step, another architecture.
    assert not torch.equal(sharp.coefficients, training.mixtures(3)["reduction"].coefficients)


def test_the_learning_rate_rises_and_then_falls_to_zero():
    training = pretraining(epochs=100, lr=0.5)
    rates = []
    for step in range(training.steps):
        training.step = step
        rates.append(training.lr())
    peak = rates.index(max(rates))
    assert peak == pytest.approx(WARM_UP * training.steps, abs=2)
    assert max(rates) == pytest.approx(0.5, rel=0.01)
    assert rates == sorted(rates[: peak + 1]) + sorted(rates[peak + 1 :], reverse=True)
    assert rates[-1] < 1e-3
    assert BETAS[0] > 0  # unlike a task's adaptation, with momentum


def test_an_epoch_shows_each_image_once_at_most():
    training, rows = pretraining(), []
    for step in range(training.steps_per_epoch):
        training.step = step
        rows += training.batch().tolist()
    assert len(rows) == len({tuple(row) for row in rows}) == 60


def test_what_diverges_is_said():
    training = pretraining()
    with torch.no_grad():
        training.network.supernet.head.bias.fill_(float("nan"))
    with pytest.raises(InputError, match="--pretrain_lr is too large"):
        training.advance(Ranks())
