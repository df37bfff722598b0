"""What the network found is worth beside the relaxed one: accuracy, size and work, once a task is adapted."""

from statistics import fmean

import torch

from models.macs import count_macs
from models.pruned_network import PrunedNetwork
from search_space.found import mean_entropy
from search_space.task_search import Classification, TaskSearch
from utils.data.episode import Episode
from utils.memory import MIB, PeakMemory
from utils.results.intervals import mean_and_ci95
from utils.results.log_rows import TaskRow
from utils.results.schema import FoundFigures

COUNTS = ("found_parameters", "found_macs", "macs")
AMOUNTS = ("found_storage_mib", "agreement", "candidate_entropy")


def measure_found(search: TaskSearch, episode: Episode, relaxed: Classification, measure: bool) -> FoundFigures:
    """The figures of the network that an adapted search found, and the work of the relaxed, soft-pruned one.

    Args:
        episode: the task that was adapted to.
        relaxed: what the relaxed network made of the queries.
        measure: whether to measure the peak of memory of classifying an image, which takes time.

    Returns:
        Nothing but None where the candidates see a part of the channels: what passes by them has no genotype.
    """
    if search.network.settings.partial_channels > 1:
        return FoundFigures()
    device, shape = search.network.device, tuple(episode.query.shape[1:])
    queries, labels = episode.query.to(device), episode.query_labels.to(device)
    mixtures = search.found_mixtures()
    found = search.classify(queries, labels, episode.support.to(device), mixtures)
    same = sum(one == other for one, other in zip(found.predictions, relaxed.predictions, strict=True))
    network = PrunedNetwork(search.supernet, mixtures)
    parameters = list(network.parameters())
    return FoundFigures(
        found_accuracy=found.accuracy,
        found_parameters=sum(parameter.numel() for parameter in parameters),
        found_macs=count_macs(network, shape),
        found_storage_mib=sum(parameter.nbytes for parameter in parameters) / MIB,
        found_peak_memory_mib=_inference_mib(network, queries[:1]) if measure else None,
        macs=count_macs(PrunedNetwork(search.supernet, search.mixtures()), shape),
        agreement=same / len(labels),
        candidate_entropy=mean_entropy(search.architecture, search.network.settings, search.normalizer),
    )


def of_all_tasks(rows: list[TaskRow]) -> dict:
    """The figures of results.json: means over the tasks, the peak of the heaviest of the measured ones."""
    if any(getattr(row, name) is None for row in rows for name in ("found_accuracy", *COUNTS, *AMOUNTS)):
        return {}
    accuracy, ci95 = mean_and_ci95([row.found_accuracy for row in rows])
    counts = {name: round(fmean(getattr(row, name) for row in rows)) for name in COUNTS}
    amounts = {name: fmean(getattr(row, name) for row in rows) for name in AMOUNTS}
    peaks = [row.found_peak_memory_mib for row in rows if row.found_peak_memory_mib is not None]
    return {
        "found_accuracy": accuracy,
        "found_accuracy_ci95": ci95,
        "found_peak_memory_mib": max(peaks, default=None),
        **counts,
        **amounts,
    }


@torch.no_grad()
def _inference_mib(network: PrunedNetwork, image: torch.Tensor) -> float:
    """The peak of live tensor bytes in MiB while a network, and nothing else, classifies an image."""
    with PeakMemory(image.device, [*network.parameters(), *network.buffers()], [image]) as memory:
        network(image)
    return memory.mib
