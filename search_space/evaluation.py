"""One test task, from the meta-cell to its accuracy, and the figures that go with it."""

import math
import statistics
import time
from contextlib import nullcontext
from dataclasses import dataclass

from models.meta_cell import MetaCell
from models.supernet import Supernet
from search_space.architecture import Architecture
from search_space.board.search_record import SearchRecord
from search_space.genotype import read_genotype
from search_space.task_search import SearchSettings, TaskSearch
from utils.memory import MIB, PeakMemory


@dataclass(frozen=True)
class TaskResult:
    """One task: accuracies are fractions, before and after adapting; loss is the queries', after, None if not finite.

    seconds: of the adaptation. seconds_per_step: median; a step is an architecture and a weight step on one batch.
    peak_memory_mib, peak_memory_test_mib: of adapting and of testing; peak_memory_breakdown_mib: the former's parts, of
        live tensor bytes by kind. None where they were not measured.
    predictions: the class that each query was given, after.
    """

    task: int
    accuracy: float
    accuracy_before: float
    loss: float | None
    seconds: float
    seconds_per_step: float
    peak_memory_mib: float | None
    peak_memory_breakdown_mib: dict[str, float] | None
    peak_memory_test_mib: float | None
    genotype: dict
    predictions: list[int]


def start_task(
    meta_cell: MetaCell,
    supernet: Supernet,
    architecture: Architecture,
    settings: SearchSettings,
    seed: int,
    task: int,
) -> TaskSearch:
    """Unfolds the meta-cell for test task number ``task``; with the seed it settles every draw."""
    meta_cell.unfold(supernet, architecture)
    return TaskSearch(supernet, architecture, settings, seed, "test task", task)


def search_task(
    meta_cell: MetaCell,
    supernet: Supernet,
    architecture: Architecture,
    settings: SearchSettings,
    batch: dict,
    seed: int,
    task: int,
    measure: bool,
    record: SearchRecord | None = None,
) -> TaskResult:
    """Unfolds the meta-cell, adapts to the support set and tests on the queries.

    Args:
        batch: one task, {"support": [images (1, N, C, H, W), labels (1, N)], "query": ...}.
        task: its number; with the seed it settles every draw.
        measure: whether to measure the peaks of memory, which takes time.
        record: takes down every step.
    """
    device = supernet.head.weight.device
    images, labels, query, query_labels = (
        tensor[0].to(device) for part in ("support", "query") for tensor in batch[part]
    )
    search = start_task(meta_cell, supernet, architecture, settings, seed, task)
    if record is not None:
        record.watch(search)
    before = search.classify(query, query_labels, images)
    adapting = PeakMemory(device, search.resident(), [images, labels]) if measure else None
    started = time.perf_counter()
    with adapting or nullcontext():
        search.adapt(images, labels)
    seconds = time.perf_counter() - started
    testing = PeakMemory(device, search.resident(), [images, query, query_labels]) if measure else None
    with testing or nullcontext():
        after = search.classify(query, query_labels, images)
    return TaskResult(
        task,
        after.accuracy,
        before.accuracy,
        after.loss if math.isfinite(after.loss) else None,
        seconds,
        statistics.median(search.step_seconds),
        adapting and adapting.mib,
        adapting and adapting.breakdown_mib,
        testing and testing.mib,
        read_genotype(architecture, supernet.settings.primitives).as_dict(),
        after.predictions,
    )


def network_figures(supernet: Supernet, architecture: Architecture, meta_cell: MetaCell | None) -> dict:
    """Sizes of a supernet and of the meta-cell that it was unfolded from, if any."""
    figures = {
        "supernet_parameters": sum(parameter.numel() for parameter in supernet.parameters()),
        "supernet_storage_mib": MetaCell.of(supernet, architecture, separate=True).parameter_bytes() / MIB,
    }
    if meta_cell is not None:
        figures["meta_cell_storage_mib"] = meta_cell.parameter_bytes() / MIB
    return figures
