"""Second-order DARTS against the exact derivative, taken by autograd through the weight step, and by brute force."""

import pytest
import torch
from torch.nn import functional as F

from models.batch_norm import BatchNorm
from search_space import unrolled
from search_space.architecture import EVERYTHING
from search_space.batches import Batch
from search_space.normalizers import Normalizer
from search_space.settings import FASTEST, LEANEST, ORDINARY, SearchSettings
from tests.helpers import (
    WAYS,
    changed,
    copy_parameters,
    random_images,
    reference_supernet,
    start_search,
    tiny_supernet,
)

TRAINING, VALIDATION = torch.arange(6), torch.arange(6, 10)
W_LR = 0.5  # so large that what the second order adds is as large as the first
SETTINGS = SearchSettings(
    epochs=1, architecture_epochs=1, batch_size=6, w_lr=W_LR, alpha_lr=0.1, prune_threshold=0.0, unrolled=True
)
KINK_FREE = 1e-6  # so small a step in weights that no ReLU and no maximum of the tiny nets changes its mind
DARTS = {"edge_weights": "equal"}
NETS = {
    "DARTS": DARTS,
    "PC-DARTS": {"edge_weights": "edges", "partial_channels": 2, "init_channels": 4},
    "pairs, three cells": {"layers": 3, "nodes": 1},
}
under_every_schedule = pytest.mark.parametrize("schedule", [ORDINARY, FASTEST, LEANEST])


class Problem:
    """A task's search on a tiny supernet, a batch to train on and one to validate on.

    Args:
        settings: changes to SETTINGS. net: changes to the tiny supernet.
    """

    def __init__(self, settings: dict | None = None, **net):
        self.supernet, self.architecture = tiny_supernet(**net)
        generator = torch.Generator().manual_seed(1)
        for norm in self.supernet.modules():
            if isinstance(norm, BatchNorm):
                norm.running_mean.normal_(generator=generator)
        self.settings = changed(SETTINGS, **(settings or {}))
        self.search = start_search(self.supernet, self.architecture, self.settings, 0, "test task", 0)
        self.images, self.labels = random_images(10), torch.arange(10) % WAYS
        self.training, self.validation = (Batch(self.images, self.labels, i) for i in (TRAINING, VALIDATION))

    def unrolled(self, w_lr: float = W_LR, choice=EVERYTHING) -> list[torch.Tensor | None]:
        self.architecture.zero_grad()
        batches = (self.training, self.validation)
        self.result = unrolled.unrolled_architecture_gradient(self.search, *batches, w_lr, choice)
        return self.gradients()

    def gradients(self) -> list[torch.Tensor | None]:
        return [variable.grad for variable in self.architecture.parameters()]

    def exact(self, w_lr: float = W_LR) -> tuple[list, list]:
        """By autograd on the reference, through the step and, the first order, at the weights after the step."""
        weights, variables = copy_parameters(self.supernet, self.architecture)

        def loss(weights, batch):
            parts = batch.tensor_split(self.settings.schedule.split_num)
            losses = [
                F.cross_entropy(
                    reference_supernet(self.supernet.settings, weights, variables, self.images[part]),
                    self.labels[part],
                )
                for part in parts
            ]
            return sum(len(part) / len(batch) * value for part, value in zip(parts, losses, strict=True))

        slopes = torch.autograd.grad(
            loss(weights, TRAINING), list(weights.values()), create_graph=True, allow_unused=True
        )
        ahead = {
            name: weight if slope is None else weight - w_lr * slope
            for (name, weight), slope in zip(weights.items(), slopes, strict=True)
        }
        constant = {name: weight.detach() for name, weight in ahead.items()}
        second, first = (
            torch.autograd.grad(loss(at, VALIDATION), list(variables.values()), allow_unused=True)
            for at in (ahead, constant)
        )
        return second, first


def flat(gradients: list[torch.Tensor | None]) -> torch.Tensor:
    return torch.cat([gradient for gradient in gradients if gradient is not None])


def error(actual: list, expected: list) -> float:
    """Relative to the norm of ``expected``; what has a gradient must be the same."""
    assert [gradient is None for gradient in actual] == [gradient is None for gradient in expected]
    return ((flat(actual) - flat(expected)).norm() / flat(expected).norm()).item()


@pytest.mark.parametrize(
    ("net", "schedule", "split_num"),
    [
        ("DARTS", ORDINARY, 1),
        ("DARTS", ORDINARY, 2),
        ("DARTS", FASTEST, 2),
        ("DARTS", LEANEST, 2),
        ("PC-DARTS", ORDINARY, 1),
        ("pairs, three cells", LEANEST, 1),
    ],
)
def test_gradient_is_the_exact_derivative_through_the_weight_step(net, schedule, split_num, monkeypatch):
    monkeypatch.setattr(unrolled, "PERTURBATION", KINK_FREE)
    problem = Problem({"schedule": schedule, "split_num": split_num}, **NETS[net])
    expected, first_order = problem.exact()
    assert error(first_order, expected) > 0.1
    assert error(problem.unrolled(), expected) < 1e-7


def test_error_falls_with_the_square_of_the_perturbation(monkeypatch):
    """The difference is central: one side's alone would fall in proportion."""
    problem, errors = Problem(**DARTS), []
    expected, _ = problem.exact()
    for perturbation in (1e-4, 1e-5):
        monkeypatch.setattr(unrolled, "PERTURBATION", perturbation)
        errors.append(error(problem.unrolled(), expected))
    assert errors[0] / errors[1] == pytest.approx(100, rel=0.1)


def test_published_perturbation_is_accurate_where_the_loss_has_no_kinks():
    net = {"primitives": ("avg_pool_3x3", "skip_connect"), "layers": 1, "reduction_layers": ()}
    problem = Problem(**net, **DARTS)
    with torch.no_grad():
        problem.supernet.stem[1].bias.fill_(9.0)  # the only ReLU never cuts
    expected, first_order = problem.exact()
    assert error(first_order, expected) > 0.1
    assert error(problem.unrolled(), expected) < 1e-3
    assert unrolled.PERTURBATION == 0.01


@under_every_schedule
def test_gradient_is_the_formula_by_brute_force(schedule):
    """With a choice of candidates and pairs, and with noise; ordinary autograd on the same supernet."""
    settings = {"sampleno": 2, "beta_sampling": True, "normalizer": Normalizer("gumbel_softmax"), "schedule": schedule}
    problem = Problem(settings, nodes=2)
    search, supernet = problem.search, problem.supernet
    noise = problem.architecture.draw_noise(torch.Generator().manual_seed(4))
    choice = search.selector.choose(search.normalizer, 0.0, 1, noise)
    actual = problem.unrolled(W_LR, choice)

    weights, variables = list(supernet.parameters()), list(problem.architecture.parameters())
    start = [weight.detach().clone() for weight in weights]

    def gradients(batch, of):
        logits = supernet(problem.images[batch], search.mixtures(choice))
        return torch.autograd.grad(F.cross_entropy(logits, problem.labels[batch]), of, allow_unused=True)

    def put(slopes, factor):
        with torch.no_grad():
            for weight, at, slope in zip(weights, start, slopes, strict=True):
                weight.copy_(at if slope is None else at + factor * slope)

    put(gradients(TRAINING, weights), -W_LR)
    first, ahead = gradients(VALIDATION, variables), gradients(VALIDATION, weights)
    epsilon = 0.01 / sum(slope.square().sum() for slope in ahead if slope is not None).sqrt().item()
    sides = []
    for sign in (1, -1):
        put(ahead, sign * epsilon)
        sides.append(gradients(TRAINING, variables))
    expected = [
        None if a is None else a - W_LR * (plus - minus) / (2 * epsilon)
        for a, plus, minus in zip(first, *sides, strict=True)
    ]
    assert any(gradient is None for gradient in expected)
    assert error(actual, expected) < 1e-9


@under_every_schedule
def test_without_a_step_it_is_the_first_order(schedule):
    problem = Problem({"schedule": schedule, "split_num": 2}, **DARTS)
    actual = problem.unrolled(w_lr=0.0)
    problem.architecture.zero_grad()
    problem.search.architecture_gradient(problem.validation, EVERYTHING)
    assert error(actual, problem.gradients()) < 1e-12


@under_every_schedule
@pytest.mark.parametrize("split_num", [1, 3], ids=["whole batches", "micro-batches"])
def test_supernet_is_afterwards_what_it_was_to_the_last_bit(schedule, split_num):
    problem = Problem({"schedule": schedule, "split_num": split_num}, **DARTS)
    before = {name: tensor.clone() for name, tensor in problem.supernet.state_dict().items()}
    variables = [variable.detach().clone() for variable in problem.architecture.parameters()]
    problem.unrolled()
    assert any("running_mean" in name for name in before)
    for name, tensor in problem.supernet.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    for variable, value in zip(problem.architecture.parameters(), variables, strict=True):
        assert torch.equal(variable, value)
    assert all(weight.grad is None and weight.requires_grad for weight in problem.supernet.parameters())
    # And statistics go on being taken.
    problem.search.weight_gradient(problem.training, EVERYTHING)
    assert not torch.equal(problem.supernet.stem[1].running_mean, before["stem.1.running_mean"])


def test_result_is_that_of_validation_one_step_ahead():
    problem = Problem(**DARTS)
    problem.unrolled()
    weights, variables = copy_parameters(problem.supernet, problem.architecture)

    def logits(of, batch):
        return reference_supernet(problem.supernet.settings, of, variables, problem.images[batch])

    loss = F.cross_entropy(logits(weights, TRAINING), problem.labels[TRAINING])
    slopes = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
    ahead = {
        name: weight if slope is None else weight - W_LR * slope
        for (name, weight), slope in zip(weights.items(), slopes, strict=True)
    }
    ahead_logits, labels = logits(ahead, VALIDATION), problem.labels[VALIDATION]
    right = (ahead_logits.argmax(1) == labels).double().mean().item()
    assert problem.result.tolist() == pytest.approx([F.cross_entropy(ahead_logits, labels).item(), right], rel=1e-5)


def test_loss_that_does_not_depend_on_the_weights_adds_nothing():
    """|v| = 0: the length of the difference is not defined."""
    problem = Problem(**DARTS)
    with torch.no_grad():
        problem.supernet.head.weight.zero_()
        problem.supernet.head.bias.copy_(torch.tensor([-400.0, 400, -400]))
    problem.labels.fill_(1)  # classified with a loss of zero exactly
    assert not flat(problem.unrolled()).any()


@under_every_schedule
def test_step_steps_by_the_gradient_ahead_of_the_weight_optimizers_present_rate(schedule):
    problem, other = (Problem({"schedule": schedule}, **DARTS) for _ in range(2))
    optimizers = problem.search.new_optimizers()
    optimizers.weights.param_groups[0]["lr"] = 0.2  # as a schedule of the rate would
    problem.search.step(optimizers, problem.training, problem.validation, 1)

    by_hand = other.search.new_optimizers()
    other.unrolled(w_lr=0.2)
    by_hand.architecture.step()
    other.search.weight_gradient(other.training, EVERYTHING)
    by_hand.weights.param_groups[0]["lr"] = 0.2
    by_hand.weights.step()
    for actual, expected in zip(
        copy_parameters(problem.supernet, problem.architecture),
        copy_parameters(other.supernet, other.architecture),
        strict=True,
    ):
        for name, tensor in expected.items():
            assert torch.equal(actual[name], tensor), name
    for module in (problem.supernet, problem.architecture):
        assert all(parameter.grad is None for parameter in module.parameters())
