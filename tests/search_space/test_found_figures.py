"""What is measured of the found network, against what is counted by hand."""

import pytest
import torch

from search_space.found_figures import measure_found, of_all_tasks
from search_space.primitives import FEW_SHOT
from search_space.settings import SearchSettings
from tests.helpers import WAYS, random_images, start_search, tiny_supernet
from utils.data.episode import Episode
from utils.memory import MIB
from utils.results.log_rows import TaskRow

SETTINGS = SearchSettings(epochs=1, architecture_epochs=1, batch_size=6, w_lr=0.01, alpha_lr=0.0)


def test_figures_of_a_found_network():
    """One normal cell of one node and two channels at 6x6 pixels: conv_3x3 on both edges."""
    supernet, architecture = tiny_supernet(nodes=1, layers=1, reduction_layers=())
    with torch.no_grad():
        for alpha in architecture.alpha["normal"]:
            alpha.zero_()[FEW_SHOT.index("conv_3x3")] = 1e4
    search = start_search(supernet.float(), architecture.float(), SETTINGS, 0, "test task", 0)
    labels = torch.arange(9) % WAYS
    episode = Episode(0, random_images(9).float(), labels, random_images(9, seed=1).float(), labels, ("a", "b", "c"))
    search.adapt(episode.support, episode.support_labels)
    relaxed = search.classify(episode.query, labels, episode.support)
    figures = measure_found(search, episode, relaxed, measure=True)
    c, pixels = 2, 36
    stem, inputs, head, conv = 9 * c + 2 * c, 2 * c * c, c * WAYS + WAYS, 9 * c + c * c
    assert figures.found_parameters == stem + inputs + head + 2 * conv
    assert figures.found_storage_mib == pytest.approx(4 * figures.found_parameters / MIB)
    assert figures.found_macs == pixels * (9 * c + inputs + 2 * conv) + c * WAYS
    assert figures.macs == figures.found_macs  # all else is pruned
    assert figures.candidate_entropy == pytest.approx(0)
    assert figures.found_peak_memory_mib > figures.found_storage_mib
    found = search.classify(episode.query, labels, episode.support, search.found_mixtures())
    same = sum(a == b for a, b in zip(found.predictions, relaxed.predictions, strict=True))
    assert (figures.found_accuracy, figures.agreement) == (found.accuracy, same / 9)


def test_figures_of_all_tasks_are_means_and_the_heaviest_peak():
    row = {"accuracy": 0.5, "accuracy_before": 0.5, "seconds": 1.0, "seconds_per_step": 1.0, "predictions": []}
    row |= {"genotype": {}, "found_parameters": 10, "found_storage_mib": 1.0, "candidate_entropy": 0.5, "macs": 40}
    rows = [
        TaskRow(task=0, found_accuracy=0.8, agreement=1.0, found_macs=20, found_peak_memory_mib=3.0, **row),
        TaskRow(task=1, found_accuracy=0.6, agreement=0.5, found_macs=30, found_peak_memory_mib=4.0, **row),
        TaskRow(task=2, found_accuracy=0.7, agreement=0.9, found_macs=25, **row),
    ]
    figures = of_all_tasks(rows)
    assert figures["found_accuracy"] == pytest.approx(0.7)
    assert figures["found_accuracy_ci95"] == pytest.approx(1.96 * 0.1 / 3**0.5)
    assert figures["agreement"] == pytest.approx(0.8)
    assert (figures["found_macs"], figures["macs"], figures["found_peak_memory_mib"]) == (25, 40, 4.0)
