"""The choice of a way to search, or to train, that fits a memory budget."""

import re
from dataclasses import replace
from itertools import chain

import pytest
import torch

from models.derived_network import DerivedSettings
from models.supernet import SupernetSettings
from search_space.batches import micro_batches
from search_space.flags.onnas import MemoryFlags
from search_space.full_task.derived_training import TrainingSettings
from search_space.memory.derived import Trained
from search_space.memory.fit import (
    SMALLEST,
    first_that_fits,
    plan_search,
    plan_training,
    search_ways,
    training_ways,
)
from search_space.memory.predict import predict
from search_space.memory.size import Size, largest_micro_batch
from search_space.settings import FASTEST, LEANEST, ORDINARY, Schedule, SearchSettings
from tests.helpers import changed
from utils.errors import BudgetError, InputError

NETWORK = SupernetSettings(
    in_channels=1,
    init_channels=4,
    layers=2,
    nodes=1,
    reduction_layers=(1,),
    primitives=("max_pool_3x3", "conv_3x3", "sep_conv_3x3"),
)
SHAPE = (1, 28, 28)
SETTINGS = SearchSettings(epochs=1, architecture_epochs=1, batch_size=7, w_lr=0.01, alpha_lr=0.01)
EITHER = MemoryFlags(step_by_step=1)
EDGES = (("sep_conv_3x3", 0), ("max_pool_3x3", 1))
TRAINED = Trained(DerivedSettings(3, 8, 2, (1,), EDGES, EDGES), ways=3, shape=(3, 16, 16), batch=9)
TRAINING = TrainingSettings(epochs=2)


def smallest_budget(refusal: pytest.ExceptionInfo) -> float:
    return float(re.search(r"the smallest that would do is ([0-9.]+) MiB", str(refusal.value)).group(1))


# --- The first that fits --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "lists", [[[9]], [[20, 12, 8], [15, 7, 5]], [[30], [31, 9, 4, 2], [6, 3, 1]], [[5, 4, 3], [12, 2]]]
)
def test_first_that_fits_against_brute_force(lists):
    """Ways named by their peaks; no peak is worked out twice, and few are."""
    every = list(chain.from_iterable(lists))
    for budget in range(33):
        asked = []
        way, peaks = first_that_fits(lists, lambda way, asked=asked: asked.append(way) or way, budget)
        assert way == next((peak for peak in every if peak <= budget), None)
        assert asked == list(peaks)
        assert len(asked) <= len(lists) + 2
        if way is None:
            assert min(peaks) == min(every)


# --- The ways to search ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shots", "batch_size"), [(5, 15), (5, 10), (4, 7), (1, 15), (1, 2), (3, 4), (15, 20)])
def test_ways_go_from_the_largest_micro_batch_to_the_smallest(shots, batch_size):
    size, settings = Size(5, 5 * shots, 5, SHAPE), replace(SETTINGS, batch_size=batch_size)
    ways = search_ways(settings, EITHER, size)
    assert [[way.schedule.name for way in alike] for alike in ways] == [
        [name] * len(ways[0]) for name in (FASTEST, LEANEST)
    ]
    assert [changed(way, schedule=LEANEST) for way in ways[0]] == ways[1]
    batches = size.batch_sizes(settings)
    largest = []
    for way in ways[0]:
        assert replace(way, schedule=settings.schedule, query_batch=None) == settings
        of_way = [len(part) for batch in batches for part in micro_batches(torch.arange(batch), way.schedule)]
        assert min(of_way) >= min(SMALLEST, *batches)
        assert max(of_way) == largest_micro_batch(size, way)
        largest.append(max(of_way))
    assert largest[0] == max(batches)
    assert largest == sorted(set(largest), reverse=True)
    # ... and none between them is left out.
    every = {largest_micro_batch(size, changed(ways[0][-1], split_num=number)) for number in range(1, 100)}
    assert set(largest) == every


def test_flags_that_are_given_leave_no_other_way():
    size = Size(3, 12, 6, SHAPE)
    (fastest,), (leanest,) = search_ways(SETTINGS, replace(EITHER, split_num=5), size)
    assert (fastest.schedule.name, leanest.schedule.name) == (FASTEST, LEANEST)
    # 7 images are three parts: with this flag pairs are allowed.
    assert [len(part) for part in micro_batches(torch.arange(7), leanest.schedule)] == [3, 2, 2]
    ways = search_ways(SETTINGS, replace(EITHER, schedule=LEANEST), size)
    assert {way.schedule.name for alike in ways for way in alike} == {LEANEST}
    ways = search_ways(SETTINGS, replace(EITHER, step_by_step=0), size)
    assert {way.schedule.name for alike in ways for way in alike} == {ORDINARY}


# --- Planning a search ----------------------------------------------------------------------------------------------


def test_budget_that_is_named_will_do_and_a_smaller_one_will_not():
    size, settings = Size(3, 12, 6, SHAPE), replace(SETTINGS, sampleno=2, beta_sampling=True, transductive=False)
    with pytest.raises(BudgetError, match=r"^--memory_budget 0.1 MiB is too little to search") as refusal:
        plan_search(settings, replace(EITHER, memory_budget=0.1), NETWORK, size)
    budget = smallest_budget(refusal)
    way, prediction = plan_search(settings, replace(EITHER, memory_budget=budget), NETWORK, size)
    assert way.schedule.split_num > 1
    assert budget - 0.1 < prediction.peak_mib <= budget
    with pytest.raises(BudgetError):
        plan_search(settings, replace(EITHER, memory_budget=budget - 0.1), NETWORK, size)


def test_transductive_testing_that_needs_the_most_is_said_to_be_the_reason():
    size, leanest = Size(6, 12, 6, SHAPE), replace(EITHER, schedule=LEANEST)  # a batch has an image of each class
    settings = replace(SETTINGS, batch_size=6, sampleno=2, beta_sampling=True)
    with pytest.raises(BudgetError, match=r"for testing.*--transductive 0") as refusal:
        plan_search(settings, replace(leanest, memory_budget=0.1), NETWORK, size)
    # The remedy is one: with it what adapting takes will do.
    takes = float(re.search(r"adapting takes ([0-9.]+)", str(refusal.value)).group(1))
    assert takes < smallest_budget(refusal)
    plan_search(replace(settings, transductive=False), replace(leanest, memory_budget=takes + 0.05), NETWORK, size)


def test_transductive_testing_stays_within_the_peak_of_adapting():
    size, leanest = Size(3, 12, 6, SHAPE), replace(EITHER, schedule=LEANEST)
    settings = replace(SETTINGS, batch_size=6, sampleno=2, beta_sampling=True)
    whole = predict(NETWORK, size, replace(settings, schedule=Schedule(LEANEST, 2)))
    assert whole.testing_mib > whole.adapting_mib  # all six queries at once
    way, prediction = plan_search(settings, replace(leanest, memory_budget=whole.adapting_mib + 0.05), NETWORK, size)
    assert (way.schedule.split_num, way.query_batch) == (2, 3)
    assert prediction.testing_mib <= prediction.adapting_mib


def test_without_a_budget_the_settings_stay_and_a_dry_run_predicts():
    size = Size(3, 12, 6, SHAPE)
    assert plan_search(SETTINGS, EITHER, NETWORK, size) == (SETTINGS, None)
    dry = replace(EITHER, dry_run=True)
    assert plan_search(SETTINGS, dry, NETWORK, size) == (SETTINGS, predict(NETWORK, size, SETTINGS))


def test_more_candidates_than_there_are_are_refused():
    with pytest.raises(InputError, match=r"--sampleno must be at most 3.*got 4"):
        plan_search(replace(SETTINGS, sampleno=4), EITHER, NETWORK, Size(3, 12, 6, SHAPE))


# --- Planning a training --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("batch", [20, 6, 5, 3, 2])
def test_ways_to_train_are_all_cells_at_once_and_then_one_by_one(batch):
    numbers = [number for number in range(1, batch + 1) if number == 1 or batch // number >= SMALLEST]
    sizes = sorted({-(-batch // number) for number in numbers}, reverse=True)
    ways = training_ways(TRAINING, EITHER, batch)
    assert [(way.schedule.name, way.schedule.largest(batch)) for alike in ways for way in alike] == [
        (name, size) for name in (ORDINARY, FASTEST) for size in sizes
    ]
    assert all(replace(way, schedule=TRAINING.schedule) == TRAINING for alike in ways for way in alike)
    # The whole batch finds no gradient there: it may take less than a part.
    assert [len(alike) for alike in ways[::2] if len(sizes) > 1] == [1, 1][: 2 * (len(sizes) > 1)]


def test_flags_that_are_given_leave_no_other_way_to_train():
    ways = training_ways(TRAINING, MemoryFlags(step_by_step=0, split_num=4), 20)
    assert [(way.schedule.name, way.schedule.split_num) for alike in ways for way in alike] == [(ORDINARY, 4)]


def test_budget_for_training_that_is_named_will_do():
    with pytest.raises(BudgetError, match=r"0.1 MiB is too little to train the derived network") as refusal:
        plan_training(TRAINING, replace(EITHER, memory_budget=0.1), TRAINED)
    budget = smallest_budget(refusal)
    way, mib = plan_training(TRAINING, replace(EITHER, memory_budget=budget), TRAINED)
    assert way.schedule.step_by_step
    assert way.schedule.split_num == 3
    assert budget - 0.1 < mib <= budget
    assert plan_training(TRAINING, EITHER, TRAINED) == (TRAINING, None)
