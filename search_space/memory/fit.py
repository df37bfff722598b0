"""The fastest way to search, or to train a derived network, that fits --memory_budget."""

from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TypeVar

from models.supernet import SupernetSettings
from search_space.flags.onnas import MemoryFlags
from search_space.full_task.derived_training import TrainingSettings
from search_space.memory.derived import Trained, predict_training_mib
from search_space.memory.predict import Prediction, predict
from search_space.memory.size import Size, largest_micro_batch
from search_space.settings import FASTEST, ORDINARY, Schedule, SearchSettings
from utils.errors import BudgetError, InputError
from utils.run.aside import aside

SMALLEST = 3  # images of a micro-batch: BN's statistics of fewer are too poor to plan with
Way = TypeVar("Way", SearchSettings, TrainingSettings)


def first_that_fits(
    lists: Iterable[list[Way]], peak_mib: Callable[[Way], float], budget_mib: float
) -> tuple[Way | None, dict[Way, float]]:
    """The first way to work whose peak is within the budget, None if none is; and all peaks that were worked out.

    Args:
        lists: of ever less memory each; a way of a list is preferred to those after it, and to the lists after it.
    """
    peaks: dict[Way, float] = {}

    def fits(way: Way) -> bool:
        if way not in peaks:
            peaks[way] = peak_mib(way)
        return peaks[way] <= budget_mib

    for ways in lists:
        if fits(ways[-1]):
            return ways[bisect_left(ways, True, key=fits)], peaks
    return None, peaks


def plan_search(
    settings: SearchSettings, memory: MemoryFlags, network: SupernetSettings, size: Size
) -> tuple[SearchSettings, Prediction | None]:
    """The settings of a search within the memory budget, if there is one; and its prediction, if it was asked for.

    Raises:
        BudgetError: the budget is too little; the message names the smallest that would do.
        InputError: more candidates are to be chosen than there are.
    """
    candidates = len(network.primitives)
    if (settings.sampleno or 0) > candidates:
        raise InputError(f"--sampleno must be at most {candidates}, an edge's candidates, got {settings.sampleno}.")
    if memory.memory_budget is None:
        return settings, predict(network, size, settings) if memory.dry_run else None
    predictions: dict[SearchSettings, Prediction] = {}

    def peak_mib(way: SearchSettings) -> float:
        predictions[way] = predict(network, size, way)
        return predictions[way].peak_mib

    lists = search_ways(settings, memory, size)
    way, _ = first_that_fits(lists, peak_mib, memory.memory_budget)
    if way is not None:
        return way, predictions[way]
    least = min(predictions.values(), key=lambda prediction: prediction.peak_mib)
    remedy = ""
    if least.testing_mib > least.adapting_mib and settings.transductive:
        remedy = f", for testing; adapting takes {least.adapting_mib:.1f}, and --transductive 0 tests image by image"
    raise BudgetError(memory.memory_budget, "to search", least.peak_mib, remedy)


def split_note(asked: int | None, size: Size, settings: SearchSettings) -> str | None:
    """What to say where ``asked`` micro-batches of the smallest batch are too many, as none may hold a single image."""
    number = min(map(settings.schedule.count, size.batch_sizes(settings)))
    if number >= (asked or 1):
        return None
    return f"--split_num {asked} would leave single images: the smallest batch is split in {number}."


def plan_search_aside(
    settings: SearchSettings, memory: MemoryFlags, network: SupernetSettings, size: Size
) -> tuple[SearchSettings, Prediction | None]:
    """What :func:`plan_search` gives; sympy and torch._dynamo, 120 MiB, that it imports are not this process's.

    To be called before the first back-propagation: PyTorch cannot do one in a copy of a process that has.
    """
    if not memory.is_planned:
        return plan_search(settings, memory, network, size)
    return aside(lambda: plan_search(settings, memory, network, size))


def search_ways(settings: SearchSettings, memory: MemoryFlags, size: Size) -> list[list[SearchSettings]]:
    """The ways a search can be run, in lists of ever less memory, from the one to be preferred.

    For each schedule they go from the largest micro-batch to one of three images. Transductive testing, too, has as
    many images at once, but one of each class at least.
    """

    def way(schedule: Schedule) -> SearchSettings:
        scheduled = replace(settings, schedule=schedule)
        return replace(scheduled, query_batch=max(size.ways, largest_micro_batch(size, scheduled)))

    if memory.split_num is not None:
        return [[way(Schedule(name, memory.split_num))] for name in memory.schedules]
    by_size = {}
    for number in range(1, max(1, settings.batch_size // SMALLEST) + 1):
        schedule = Schedule(ORDINARY, number, SMALLEST)
        by_size.setdefault(largest_micro_batch(size, replace(settings, schedule=schedule)), schedule)
    return [[way(replace(schedule, name=name)) for schedule in by_size.values()] for name in memory.schedules]


def plan_training(
    training: TrainingSettings, memory: MemoryFlags, trained: Trained
) -> tuple[TrainingSettings, float | None]:
    """The settings of a training within the memory budget, if there is one; and its peak in MiB, if it was asked for.

    Raises:
        BudgetError: the budget is too little; the message names the smallest that would do.
    """
    if memory.memory_budget is None:
        return training, predict_training_mib(trained, training) if memory.dry_run else None
    lists = training_ways(training, memory, trained.batch)
    way, peaks = first_that_fits(lists, lambda way: predict_training_mib(trained, way), memory.memory_budget)
    if way is None:
        raise BudgetError(memory.memory_budget, "to train the derived network", min(peaks.values()))
    return way, peaks[way]


def training_ways(training: TrainingSettings, memory: MemoryFlags, batch: int) -> list[list[TrainingSettings]]:
    """The ways a derived network can be trained: all cells at once before a cell at a time, if the flags allow it.

    Of each, the whole batch comes before micro-batches. It finds no gradient there, so it may take less than a part;
    among parts a smaller one takes less. To test in such micro-batches takes less.
    """
    by_size = {}
    numbers = [memory.split_num] if memory.split_num else range(1, max(1, batch // SMALLEST) + 1)
    for number in numbers:
        by_size.setdefault(-(-batch // number), number)
    lists = []
    for name in (ORDINARY, FASTEST) if memory.step_by_step else (ORDINARY,):
        whole, *parts = (replace(training, schedule=Schedule(name, number)) for number in by_size.values())
        lists += [[whole], parts] if parts else [[whole]]
    return lists
