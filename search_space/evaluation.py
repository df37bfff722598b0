"""One test task, from the meta-cell to its accuracy."""

import math
import statistics
import time
from contextlib import nullcontext
from dataclasses import dataclass

from models.meta_cell import MetaCell
from search_space.board.search_record import SearchRecord
from search_space.found_figures import measure_found
from search_space.search_network import SearchNetwork
from search_space.settings import SearchSettings
from search_space.task_search import TaskSearch
from utils.data.episode import Episode
from utils.draws import Draws
from utils.memory import PeakMemory
from utils.results.log_rows import TaskRow

TEST_TASK, TRAINING_TASK = "test task", "training task"


@dataclass(frozen=True)
class Start:
    """What every task starts from.

    network: is written to by each task; none depends on what an earlier one left in it.
    seed: with a task's number it settles every draw.
    """

    meta_cell: MetaCell
    network: SearchNetwork
    settings: SearchSettings
    seed: int

    def unfold(self, purpose: str, number: int) -> TaskSearch:
        """Unfolds the meta-cell for a task, which is named by purpose and number."""
        self.network.unfold(self.meta_cell)
        return TaskSearch(self.network, self.settings, Draws(self.seed, purpose, number))


def search_task(search: TaskSearch, episode: Episode, measure: bool, record: SearchRecord | None = None) -> TaskRow:
    """Adapts to an episode's support set and tests on its queries, before and after.

    Args:
        search: unfolded for the episode.
        measure: whether to measure the peaks of memory, which takes time.
        record: takes down every step.
    """
    device = search.network.device
    images, labels = episode.support.to(device), episode.support_labels.to(device)
    queries, query_labels = episode.query.to(device), episode.query_labels.to(device)
    if record is not None:
        record.watch(search)
    before = search.classify(queries, query_labels, images)
    adapting = PeakMemory(device, search.network.resident(), [images, labels]) if measure else None
    started = time.perf_counter()
    with adapting or nullcontext():
        search.adapt(images, labels)
    seconds = time.perf_counter() - started
    testing = PeakMemory(device, search.network.resident(), [images, queries, query_labels]) if measure else None
    with testing or nullcontext():
        after = search.classify(queries, query_labels, images)
    found = measure_found(search, episode, after, measure)
    return TaskRow(
        task=episode.number,
        accuracy=after.accuracy,
        accuracy_before=before.accuracy,
        loss=after.loss if math.isfinite(after.loss) else None,
        seconds=seconds,
        seconds_per_step=statistics.median(search.step_seconds),
        peak_memory_mib=adapting and adapting.mib,
        peak_memory_breakdown_mib=adapting and adapting.breakdown_mib,
        peak_memory_test_mib=testing and testing.mib,
        genotype=search.network.genotype().as_dict(),
        predictions=after.predictions,
        **vars(found),
    )
