"""A test task from its meta-cell to its accuracy, and the mean over tasks."""

from dataclasses import replace

import pytest
import torch

from search_space.evaluation import TEST_TASK, Start, search_task
from search_space.search_network import SearchNetwork
from search_space.settings import SearchSettings
from tests.helpers import WAYS, random_images, tiny_supernet
from utils.data.episode import Episode
from utils.memory import PeakMemory
from utils.results.log_rows import TaskRow

SETTINGS = SearchSettings(epochs=2, architecture_epochs=2, batch_size=6, w_lr=0.05, alpha_lr=0.05, sampleno=2)


def a_task(number: int) -> Episode:
    """Images of three classes that differ in brightness, in float64."""
    labels = torch.arange(9) % WAYS
    brightness = 0.2 + 0.4 * labels.view(-1, 1, 1, 1)
    support, query = (random_images(9, seed=2 * number + part) * brightness for part in (0, 1))
    return Episode(number, support, labels, query, labels, ("a", "b", "c"))


def start_of(settings: SearchSettings = SETTINGS) -> Start:
    network = SearchNetwork(*tiny_supernet())
    return Start(network.state(separate=False), network, settings, seed=5)


def searched(start: Start, number: int, measure: bool = True) -> TaskRow:
    return search_task(start.unfold(TEST_TASK, number), a_task(number), measure)


def test_a_task_is_the_same_whatever_ran_before_it():
    start, results = start_of(), []
    for order in ((0, 1, 2), (2, 0)):
        found = {number: searched(start, number) for number in order}
        results.append(found)
    for number in (0, 2):
        timings = {"seconds": 0.0, "seconds_per_step": 0.0}
        assert replace(results[0][number], **timings) == replace(results[1][number], **timings)
    assert results[0][0].loss != results[0][1].loss


def test_accuracy_before_is_that_of_the_unfolded_meta_cell():
    start, task = start_of(), a_task(0)
    result = searched(start, 0)
    search = start.unfold(TEST_TASK, 0)
    images, labels, query, query_labels = task.support, task.support_labels, task.query, task.query_labels
    assert result.accuracy_before == search.classify(query, query_labels, images).accuracy
    search.adapt(images, labels)
    after = search.classify(query, query_labels, images)
    assert (result.accuracy, result.loss) == (after.accuracy, after.loss)
    assert result.peak_memory_mib > result.peak_memory_test_mib > 0


def test_measuring_changes_nothing_but_the_figures_of_memory():
    start = start_of()
    measured, plain = (searched(start, 0, measure) for measure in (True, False))
    figures = {
        "peak_memory_mib": None,
        "peak_memory_breakdown_mib": None,
        "peak_memory_test_mib": None,
        "found_peak_memory_mib": None,
    }
    timings = {"seconds": 0.0, "seconds_per_step": 0.0}
    assert replace(measured, **figures, **timings) == replace(plain, **timings)
    assert plain.peak_memory_mib is None


def test_peak_memory_is_that_of_the_whole_adaptation():
    """Once T has fallen, soft pruning leaves fewer candidates to run: the last epoch needs less than the first."""
    start, task = start_of(replace(SETTINGS, sampleno=None)), a_task(0)
    peak = searched(start, 0).peak_memory_mib
    search, (images, labels) = start.unfold(TEST_TASK, 0), (task.support, task.support_labels)
    tensors = [*start.network.parameters(), *start.network.buffers()]
    with PeakMemory(torch.device("cpu"), tensors, [images, labels]) as whole:
        search.adapt(images, labels)
    assert peak == pytest.approx(whole.mib, rel=0.01)
