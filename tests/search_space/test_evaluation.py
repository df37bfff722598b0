"""A test task from its meta-cell to its accuracy, and the mean over tasks."""

from dataclasses import replace

import pytest
import torch

from models.meta_cell import MetaCell
from search_space.evaluation import search_task
from search_space.task_search import SearchSettings, TaskSearch
from tests.helpers import WAYS, random_images, tiny_supernet
from utils.memory import PeakMemory

SETTINGS = SearchSettings(epochs=2, architecture_epochs=2, batch_size=6, w_lr=0.05, alpha_lr=0.05, sampleno=2)


def a_task(seed: int) -> dict:
    """Images of three classes that differ in brightness, in float64."""
    labels = torch.arange(9) % WAYS
    parts = {}
    for number, part in enumerate(("support", "query")):
        images = random_images(9, seed=2 * seed + number) * (0.2 + 0.4 * labels.view(-1, 1, 1, 1))
        parts[part] = [images[None], labels[None]]
    return parts


def test_a_task_is_the_same_whatever_ran_before_it():
    supernet, architecture = tiny_supernet()
    meta_cell = MetaCell.of(supernet, architecture, separate=False)
    results = []
    for order in ((0, 1, 2), (2, 0)):
        found = {
            n: search_task(meta_cell, supernet, architecture, SETTINGS, a_task(n), 5, n, measure=True) for n in order
        }
        results.append(found)
    for number in (0, 2):
        timings = {"seconds": 0.0, "seconds_per_step": 0.0}
        assert replace(results[0][number], **timings) == replace(results[1][number], **timings)
    assert results[0][0].loss != results[0][1].loss


def test_accuracy_before_is_that_of_the_unfolded_meta_cell():
    supernet, architecture = tiny_supernet()
    meta_cell = MetaCell.of(supernet, architecture, separate=False)
    task = a_task(0)
    result = search_task(meta_cell, supernet, architecture, SETTINGS, task, 5, 0, measure=True)
    meta_cell.unfold(supernet, architecture)
    search = TaskSearch(supernet, architecture, SETTINGS, 5, "test task", 0)
    (images, labels), (query, query_labels) = ([tensor[0] for tensor in task[part]] for part in ("support", "query"))
    assert result.accuracy_before == search.classify(query, query_labels, images).accuracy
    search.adapt(images, labels)
    after = search.classify(query, query_labels, images)
    assert (result.accuracy, result.loss) == (after.accuracy, after.loss)
    assert result.peak_memory_mib > result.peak_memory_test_mib > 0


def test_measuring_changes_nothing_but_the_figures_of_memory():
    supernet, architecture = tiny_supernet()
    meta_cell = MetaCell.of(supernet, architecture, separate=False)
    measured, plain = (
        search_task(meta_cell, supernet, architecture, SETTINGS, a_task(0), 5, 0, measure) for measure in (True, False)
    )
    figures = {"peak_memory_mib": None, "peak_memory_breakdown_mib": None, "peak_memory_test_mib": None}
    timings = {"seconds": 0.0, "seconds_per_step": 0.0}
    assert replace(measured, **figures, **timings) == replace(plain, **timings)
    assert plain.peak_memory_mib is None


def test_peak_memory_is_that_of_the_whole_adaptation():
    """Once T has fallen, soft pruning leaves fewer candidates to run: the last epoch needs less than the first."""
    supernet, architecture = tiny_supernet()
    meta_cell = MetaCell.of(supernet, architecture, separate=False)
    settings, task = replace(SETTINGS, sampleno=None), a_task(0)
    peak = search_task(meta_cell, supernet, architecture, settings, task, 5, 0, measure=True).peak_memory_mib
    meta_cell.unfold(supernet, architecture)
    search = TaskSearch(supernet, architecture, settings, 5, "test task", 0)
    images, labels = (tensor[0] for tensor in task["support"])
    tensors = [tensor for module in (supernet, architecture) for tensor in (*module.parameters(), *module.buffers())]
    with PeakMemory(torch.device("cpu"), tensors, [images, labels]) as whole:
        search.adapt(images, labels)
    assert peak == pytest.approx(whole.mib, rel=0.01)
