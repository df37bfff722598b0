"""Tasks adapted side by side against each adapted by itself."""

from dataclasses import replace

import pytest
import torch

from models.meta_cell import MetaCell
from search_space.evaluation import TRAINING_TASK, Start
from search_space.meta.batched_adam import BatchedAdam
from search_space.meta.batched_search import BatchedSearch, adapt_tasks
from search_space.normalizers import Normalizer
from search_space.search_network import SearchNetwork
from search_space.settings import CENTROID, SearchSettings
from tests.helpers import WAYS, changed, random_images, start_search, tiny_supernet
from utils.data.episode import Episode
from utils.draws import Draws

SUPPORT, QUERIES = 15, 6  # batches of 6, 6 and 3
FIRST = 7
SETTINGS = SearchSettings(
    epochs=2, architecture_epochs=2, batch_size=6, w_lr=0.01, alpha_lr=0.1, prune_threshold=0.1, drop_path_prob=0.3
)


def a_batch(tasks: int, support: int = SUPPORT) -> list[torch.Tensor]:
    """[support images, labels, query images, labels], each of all tasks, every task with an order of its own."""
    generator = torch.Generator().manual_seed(0)
    parts = []
    for seed, number in ((0, support), (100, QUERIES)):
        orders = [torch.randperm(number, generator=generator) for _ in range(tasks)]
        labels = torch.stack([(torch.arange(number) % WAYS)[order] for order in orders])
        images = torch.stack([random_images(number, seed=seed + task) for task in range(tasks)])
        parts += [images * (0.2 + 0.4 * labels[..., None, None, None]), labels]
    return parts


def named(numbers: range) -> list[Draws]:
    return [Draws(3, TRAINING_TASK, number) for number in numbers]


def episodes_of(batch: list[torch.Tensor]) -> list[Episode]:
    return [Episode(FIRST + number, *parts, ("a", "b", "c")) for number, parts in enumerate(zip(*batch, strict=True))]


def alone(settings: SearchSettings, batch: list[torch.Tensor], task: int, **net) -> tuple[MetaCell, float, float]:
    supernet, architecture = tiny_supernet(**net)
    images, labels, query, query_labels = (tensor[task] for tensor in batch)
    search = start_search(supernet, architecture, settings, 3, TRAINING_TASK, FIRST + task)
    loss = search.adapt(images, labels)
    accuracy = search.classify(query, query_labels, images).accuracy
    return MetaCell.of(supernet, architecture, separate=True), loss, accuracy


def assert_same(actual: MetaCell, expected: MetaCell) -> None:
    for one, other in zip(actual.tensors(), expected.tensors(), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)


# Enough where it is not about pruning.
FEW = {"primitives": ("max_pool_3x3", "skip_connect", "sep_conv_3x3")}
CASES = {
    "plain": (3, {}, {}),
    "one task": (1, {}, FEW),
    "more cells": (2, {"epochs": 1, "architecture_epochs": 1}, {"layers": 3, "nodes": 3, **FEW}),
    "weights only": (2, {"architecture_epochs": 0}, FEW),
    "the found network last": (3, {"architecture_epochs": 1, "found_epochs": 1}, FEW),
    "heads of class means": (2, {"head_init": CENTROID}, FEW),
    "without drop-path": (2, {"drop_path_prob": 0.0}, FEW),
    "most is pruned": (2, {"prune_threshold": 0.3}, {}),
    "everything is pruned": (2, {"prune_threshold": 1.0}, {}),
    "noise": (2, {"normalizer": Normalizer("gumbel_softmax")}, FEW),
    "relusoftmax": (2, {"normalizer": Normalizer("relusoftmax")}, FEW),
}


@pytest.mark.parametrize(("tasks", "changes", "net"), CASES.values(), ids=CASES)
def test_each_task_is_adapted_as_by_itself(tasks, changes, net):
    settings, batch = replace(SETTINGS, **changes), a_batch(tasks)
    search = BatchedSearch(SearchNetwork(*tiny_supernet(**net)), settings, named(range(FIRST, FIRST + tasks)))
    losses = search.adapt(*batch[:2])
    accuracies = search.classify(*batch[2:])
    for task in range(tasks):
        state, loss, accuracy = alone(settings, batch, task, **net)
        assert_same(search.state(task), state)
        assert losses[task] == pytest.approx(loss, abs=1e-6)  # a task by itself adds it up in single precision
        assert accuracies[task] == accuracy


@pytest.mark.filterwarnings("ignore:.*script_method:DeprecationWarning")  # of what torch.compile imports
def test_compiled_passes_change_nothing(compiled_passes):
    """Two tasks of 8 images in batches of 4, an architecture and a weight pass each."""
    settings, net = (
        replace(SETTINGS, batch_size=4, prune_threshold=0.0, epochs=1),
        {"layers": 1, "nodes": 1, "reduction_layers": (), "primitives": ("max_pool_3x3", "conv_3x3")},
    )
    states = []
    for compiled in (False, True):
        search = BatchedSearch(
            SearchNetwork(*tiny_supernet(**net)), replace(settings, compiled=compiled), named(range(2))
        )
        losses = search.adapt(*a_batch(2, support=8)[:2])
        states.append((losses, search.state(0), search.state(1)))
        assert compiled_passes == [(2, 4, 1, 6, 6)] * 4 * compiled
    assert states[1][0] == pytest.approx(states[0][0], abs=1e-9)
    assert_same(states[1][1], states[0][1])
    assert_same(states[1][2], states[0][2])


def test_pruned_candidates_and_measured_tasks_are_not_compiled(compiled_passes):
    """Every set of pruned candidates would take minutes, and the meter sees what PyTorch runs."""
    pruned, whole = (replace(SETTINGS, epochs=1, prune_threshold=p, compiled=True) for p in (0.3, 0.0))
    BatchedSearch(SearchNetwork(*tiny_supernet()), pruned, named(range(2))).adapt(*a_batch(2)[:2])
    network = SearchNetwork(*tiny_supernet())
    adapt_tasks(Start(network.state(separate=False), network, whole, 3), episodes_of(a_batch(2)), measure=True)
    assert compiled_passes == []


def test_the_tasks_prune_different_candidates():
    """Otherwise the tests above would not show that a task's pruned candidates stay as they are."""
    search = BatchedSearch(SearchNetwork(*tiny_supernet()), SETTINGS, named(range(FIRST, FIRST + 3)))
    search.adapt(*a_batch(3)[:2])
    active = [task.mixtures()["normal"].active for task in search.tasks]
    assert active[0] != active[1] != active[2]


@pytest.mark.parametrize("support", [13, 2])
def test_odd_batches(support):
    batch = a_batch(2, support)
    search = BatchedSearch(SearchNetwork(*tiny_supernet()), SETTINGS, named(range(FIRST, FIRST + 2)))
    search.adapt(*batch[:2])
    for task in range(2):
        assert_same(search.state(task), alone(SETTINGS, batch, task)[0])


@pytest.mark.parametrize("net", [{}, {"init_channels": 4, "partial_channels": 2, "edge_weights": "edges"}])
@pytest.mark.parametrize("tasks", [1, 2])
def test_tasks_of_a_meta_batch(net, tasks):
    """From the meta-cell, whatever it was before; partial channels one by one. The peak is the first group's."""
    batch = a_batch(tasks)
    network = SearchNetwork(*tiny_supernet(**net))
    start = Start(network.state(separate=True), network, SETTINGS, 3)
    for parameter in network.parameters():
        parameter.data.zero_()
    ends, figures = adapt_tasks(start, episodes_of(batch), measure=True)
    assert len(ends) == tasks
    for task, end in enumerate(ends):
        state, loss, accuracy = alone(SETTINGS, batch, task, **net)
        assert_same(end.state, state)
        assert (end.loss, end.accuracy) == (pytest.approx(loss, abs=1e-6), accuracy)
    assert figures["peak_memory_mib"] == pytest.approx(sum(figures["peak_memory_breakdown_mib"].values()))
    assert adapt_tasks(start, episodes_of(batch), measure=False)[1] == {}


@pytest.mark.parametrize("changes", [{"sampleno": 2}, {"beta_sampling": True}, {"split_num": 2}, {"unrolled": True}])
def test_what_only_the_device_does_is_refused(changes):
    with pytest.raises(ValueError, match="meta-training"):
        BatchedSearch(SearchNetwork(*tiny_supernet()), changed(SETTINGS, **changes), named(range(2)))


def test_adam_steps_each_task_as_torch_does():
    """Against torch's own Adam with a tensor for each task; a tensor without gradient is not stepped."""
    generator = torch.Generator().manual_seed(0)
    together = [torch.randn(3, *shape, generator=generator, dtype=torch.float64) for shape in ((4, 2, 1, 5), (), (7,))]
    apart = [[part.clone().requires_grad_() for part in tensor] for tensor in together]
    batched = BatchedAdam([tensor.requires_grad_() for tensor in together], lr=0.1)
    reference = torch.optim.Adam([part for parts in apart for part in parts], lr=0.1, betas=(0.0, 0.999))
    for step in range(20):
        stepped = (torch.rand(len(together), 3, generator=generator) < (1.0 if step < 4 else 0.6)).tolist()
        for tensor, parts, tasks in zip(together, apart, stepped, strict=True):
            gradient = torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype)
            tensor.grad = gradient.clone() if any(tasks) else None
            for part, own, task in zip(parts, gradient, tasks, strict=True):
                part.grad = own.clone() if task else None
        batched.step(stepped)
        reference.step()
        for tensor, parts in zip(together, apart, strict=True):
            torch.testing.assert_close(tensor.detach(), torch.stack(parts).detach(), rtol=1e-12, atol=1e-12)
