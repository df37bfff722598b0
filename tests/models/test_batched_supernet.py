"""Supernets side by side against each by itself, by ordinary autograd."""

from dataclasses import replace

import pytest
import torch
from torch.nn import functional as F

from models.batched_mix import Term as MixTerm
from models.batched_mix import mix, statistics
from models.batched_supernet import BatchedMixture, BatchedSupernet, dilated
from models.search_cell import Mixture
from search_space.normalizers import AnnealedNormalizer
from search_space.primitives import FULL_TASK
from tests.helpers import WAYS, random_images, reference_norm, tiny_supernet

EXACT = {"rtol": 0, "atol": 1e-11}
IMAGES = 4
ANNEALED = AnnealedNormalizer("softmax", 1.0, 0.0)
NETS = [
    {},
    {"layers": 4, "reduction_layers": (1, 3), "nodes": 3},
    {"layers": 3, "reduction_layers": (0,), "init_channels": 4, "nodes": 1},
    {"primitives": FULL_TASK},
]


class Tasks:
    """Tasks with weights, alpha and beta, images and labels of their own; what is drawn prunes different candidates."""

    def __init__(self, number: int, size: tuple[int, int] = (6, 6), threshold: float = 0.1, **net):
        self.supernet, _ = tiny_supernet(**net)
        self.architectures = [tiny_supernet(seed=task, **net)[1] for task in range(number)]
        self.batched = BatchedSupernet(self.supernet, number)
        generator = torch.Generator().manual_seed(0)
        with torch.no_grad():
            for weight in self.batched.weights.values():
                weight.add_(0.1 * torch.randn(weight.shape, generator=generator, dtype=weight.dtype))
        self.images = torch.stack([random_images(IMAGES, size, seed=task) for task in range(number)])
        self.labels = torch.randint(WAYS, (number, IMAGES), generator=generator)
        self.mixtures = [architecture.mixtures(ANNEALED, threshold) for architecture in self.architectures]
        self.keep = torch.stack(
            [self.supernet.draw_drop_path(IMAGES, 0.3, generator).double() for _ in range(number)], dim=-1
        )

    def side_by_side(self) -> dict[str, BatchedMixture]:
        return {
            cell_type: BatchedMixture.of([mixtures[cell_type] for mixtures in self.mixtures])
            for cell_type in self.mixtures[0]
        }

    def backward(self, with_keep: bool = True) -> torch.Tensor:
        """Takes the gradients of all tasks at once; returns their logits (T, N, ways)."""
        logits = self.batched(self.images, self.side_by_side(), self.keep if with_keep else None)
        sum(F.cross_entropy(own, labels) for own, labels in zip(logits, self.labels, strict=True)).backward()
        return logits.detach()

    def alone(self, task: int, with_keep: bool = True) -> tuple[torch.Tensor, dict, list]:
        """One task by itself: its logits and its gradients, those of the weights by name, and of alpha and beta."""
        self.batched.copy_to_supernet(task)
        keep = self.keep[..., task] if with_keep else None
        logits = self.supernet(self.images[task], self.mixtures[task], keep)
        named, architecture = dict(self.supernet.named_parameters()), list(self.architectures[task].parameters())
        gradients = torch.autograd.grad(
            F.cross_entropy(logits, self.labels[task]), [*named.values(), *architecture], allow_unused=True
        )
        return logits.detach(), dict(zip(named, gradients, strict=False)), list(gradients[len(named) :])


def assert_same(tasks: Tasks, with_keep: bool = True) -> None:
    alone = [tasks.alone(task, with_keep) for task in range(tasks.batched.tasks)]
    tasks.mixtures = [architecture.mixtures(ANNEALED, 0.1) for architecture in tasks.architectures]
    logits = tasks.backward(with_keep)
    for task, (own_logits, of_weights, of_architecture) in enumerate(alone):
        torch.testing.assert_close(logits[task], own_logits, **EXACT)
        for name, expected in of_weights.items():
            gradient = tasks.batched.weights[name].grad
            if expected is None:  # what the task pruned gets nothing: if others keep it, zero
                assert gradient is None or not gradient[task].any()
            else:
                torch.testing.assert_close(gradient[task], expected, **EXACT)
        for parameter, expected in zip(tasks.architectures[task].parameters(), of_architecture, strict=True):
            torch.testing.assert_close(parameter.grad, expected, **EXACT)


@pytest.mark.parametrize("net", NETS)
@pytest.mark.parametrize("size", [(6, 6), (7, 5)])
def test_gradients_are_those_of_each_task_by_itself(net, size):
    tasks = Tasks(3, size, **net)
    active = [[mixture.active for mixture in mixtures.values()] for mixtures in tasks.mixtures]
    assert active[0] != active[1]
    assert_same(tasks)


def test_without_drop_path():
    assert_same(Tasks(2), with_keep=False)


def test_one_task():
    assert_same(Tasks(1))


def test_a_pruned_candidate_leaves_no_trace_in_its_task():
    tasks = Tasks(2)
    kept = tasks.mixtures[0]["normal"]
    active = [list(edge) for edge in kept.active]
    active[0][3] = False
    tasks.mixtures[1] = {**tasks.mixtures[1], "normal": replace(tasks.mixtures[1]["normal"], active=active)}
    before = tasks.batched(tasks.images, tasks.side_by_side())
    with torch.no_grad():
        for name, weight in tasks.batched.weights.items():
            if ".sources.0.to_node.0.conv_1x5_5x1" in name and name.startswith("cells.0"):
                weight.mul_(-3)
    after = tasks.batched(tasks.images, tasks.side_by_side())
    assert torch.equal(before[1], after[1])
    assert not torch.equal(before[0], after[0])


@pytest.mark.parametrize("seed", range(6))
def test_reached_is_what_gets_a_gradient(seed):
    """With most candidates pruned, whole inputs and cells are not read: nothing before them gets a gradient."""
    generator = torch.Generator().manual_seed(seed)
    tasks = Tasks(2, layers=4, reduction_layers=(1,))
    share = 0.5 ** (1 + seed % 4)
    for number, mixtures in enumerate(tasks.mixtures):
        tasks.mixtures[number] = {
            cell_type: Mixture(
                mixture.coefficients,
                (torch.rand(mixture.coefficients.shape, generator=generator) < share).tolist(),
                mixture.trained,
            )
            for cell_type, mixture in mixtures.items()
        }
    side_by_side = tasks.side_by_side()
    reached = tasks.batched.reached_weights(side_by_side)
    for task in range(2):
        _, of_weights, of_architecture = tasks.alone(task)
        expected = [gradient is not None for gradient in of_weights.values()]
        assert [tasks_of_one[task] for tasks_of_one in reached] == expected
        names = [name for name, _ in tasks.architectures[task].named_parameters()]
        types = {name.split(".")[1] for name, g in zip(names, of_architecture, strict=True) if g is not None}
        assert tasks.batched.reached_types(task, side_by_side) == types


@pytest.mark.parametrize("shape", [(6, 6), (7, 5), (1, 4)])
@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("kernel", [3, 5])
def test_dilated_is_a_dilated_convolution(shape, stride, kernel):
    x = torch.randn(2, 6, *shape, dtype=torch.float64).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(3, 2, 1, kernel, kernel, dtype=torch.float64)
    expected = F.conv2d(x, weight.flatten(0, 1), None, stride, kernel - 1, dilation=2, groups=6)
    torch.testing.assert_close(dilated(x, weight, stride), expected, **EXACT)


@pytest.mark.parametrize("images", [1, IMAGES])
def test_mix_is_a_weighted_sum_of_normalised_outputs(images):
    generator = torch.Generator().manual_seed(0)

    def draw(*shape):
        return torch.randn(shape, generator=generator, dtype=torch.float64).requires_grad_()

    outputs = [draw(IMAGES, 6, 3, 2) for _ in range(3)]
    weights = [draw(images, 2) for _ in outputs]

    def reference(weights, outputs):
        terms = [*map(reference_norm, outputs[:2]), outputs[2]]
        return sum(w.repeat_interleave(3, 1)[..., None, None] * term for w, term in zip(weights, terms, strict=True))

    terms = [MixTerm(o, *statistics(o), w) for o, w in zip(outputs[:2], weights[:2], strict=True)]
    node = mix([*terms, MixTerm(outputs[2], None, None, weights[2])])
    expected = reference(weights, outputs)
    torch.testing.assert_close(node, expected, **EXACT)
    arriving = torch.randn(node.shape, generator=generator, dtype=torch.float64)
    actual, wanted = (torch.autograd.grad(value, [*weights, *outputs], arriving) for value in (node, expected))
    torch.testing.assert_close(actual, wanted, **EXACT)


def test_partial_channels_are_refused():
    supernet, _ = tiny_supernet(init_channels=4, partial_channels=2, edge_weights="edges")
    with pytest.raises(ValueError, match="partial channels"):
        BatchedSupernet(supernet, 2)
