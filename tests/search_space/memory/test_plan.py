"""The predicted memory against what real searches take, and the choice of a way that fits a budget."""

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from types import SimpleNamespace

import pytest
import torch

from models.supernet import SupernetSettings
from search_space.build import build_supernet
from search_space.full_task.search import FullTaskSearch
from search_space.memory import plan as memory_plan
from search_space.memory.plan import (
    SMALLEST_CHUNK,
    FullTaskSize,
    Prediction,
    TaskSize,
    largest_chunk,
    options,
    plan,
    predict,
)
from search_space.primitives import FEW_SHOT
from search_space.task_search import FASTEST, LEANEST, ORDINARY, SearchSettings, TaskSearch, batches, chunks
from utils.errors import InputError
from utils.memory import KINDS, PeakMemory

DRAWING = SupernetSettings(
    in_channels=1, init_channels=4, layers=4, nodes=1, reduction_layers=(3,), primitives=FEW_SHOT
)
PHOTO = replace(DRAWING, in_channels=3, init_channels=8, layers=2, nodes=2, reduction_layers=(1,))
SHALLOW = replace(DRAWING, layers=2, reduction_layers=(1,))
WIDE = replace(DRAWING, init_channels=64)
SHAPES = {DRAWING: (1, 28, 28), PHOTO: (3, 20, 20), SHALLOW: (1, 28, 28)}
SETTINGS = SearchSettings(epochs=1, architecture_epochs=1, batch_size=7, w_lr=0.01, alpha_lr=0.01)
SELECTION = {"sampleno": 2, "beta_sampling": True}


def task_of(network: SupernetSettings) -> TaskSize:
    """Batches of 7 and 5 support images, and of 6 query images."""
    return TaskSize(ways=3, shots=4, queries=2, shape=SHAPES[network])


@cache
def predicted(network: SupernetSettings, settings: SearchSettings) -> Prediction:
    return predict(network, task_of(network), settings)


@cache
def measured(network: SupernetSettings, settings: SearchSettings) -> tuple[PeakMemory, PeakMemory]:
    """A whole task's adapting and testing, as search_task measures them."""
    task = task_of(network)
    search = TaskSearch(*build_supernet(network, task.ways, seed=1), settings, 3, "test task", 0)
    generator = torch.Generator().manual_seed(0)
    images, queries = (
        torch.rand(task.ways * number, *task.shape, generator=generator) for number in (task.shots, task.queries)
    )
    labels, query_labels = (torch.arange(len(part)) % task.ways for part in (images, queries))
    with PeakMemory(torch.device("cpu"), search.resident(), [images, labels]) as adapting:
        search.adapt(images, labels)
    with PeakMemory(torch.device("cpu"), search.resident(), [images, queries, query_labels]) as testing:
        search.classify(queries, query_labels, images)
    return adapting, testing


# --- Predicting -----------------------------------------------------------------------------------------------------

CASES = [
    (PHOTO, ORDINARY, SELECTION, 1, True),
    (DRAWING, ORDINARY, {}, 3, False),
    (DRAWING, FASTEST, SELECTION, 3, True),
    (PHOTO, FASTEST, SELECTION, 1, False),
    (DRAWING, FASTEST, {}, 1, True),
    (DRAWING, LEANEST, {}, 3, True),
    (DRAWING, LEANEST, SELECTION, 1, False),
    (PHOTO, LEANEST, SELECTION, 3, False),
]


def named(case: tuple) -> str:
    network, schedule, selection, split_num, transductive = case
    return ", ".join(
        [
            "x".join(map(str, SHAPES[network])),
            schedule,
            "selection" if selection else "everything",
            f"split {split_num}",
            "transductive" if transductive else "inductive",
        ]
    )


@pytest.mark.parametrize("case", CASES, ids=named)
def test_prediction_is_what_a_real_search_takes(case):
    network, schedule, selection, split_num, transductive = case
    settings = replace(SETTINGS, schedule=schedule, split_num=split_num, transductive=transductive, **selection)
    prediction, (adapting, testing) = predicted(network, settings), measured(network, settings)
    assert prediction.adapting_mib == pytest.approx(adapting.mib, rel=0.1)
    assert prediction.testing_mib == pytest.approx(testing.mib, rel=0.1)
    assert prediction.peak_mib == max(prediction.adapting_mib, prediction.testing_mib)
    assert tuple(prediction.breakdown_mib) == KINDS
    assert sum(prediction.breakdown_mib.values()) == pytest.approx(prediction.adapting_mib, rel=1e-12)
    # What is not a matter of moments is of the same size too.
    assert prediction.breakdown_mib["parameters"] == pytest.approx(adapting.breakdown_mib["parameters"], rel=0.01)
    text = prediction.as_text(settings)
    assert schedule in text
    assert f"--split_num {split_num}" in text
    assert all(f"{kind} {size:.1f}" in text for kind, size in prediction.breakdown_mib.items())


def test_schedules_and_micro_batches_take_less_and_less():
    peaks = [
        predicted(DRAWING, replace(SETTINGS, schedule=schedule, split_num=split_num, **SELECTION)).adapting_mib
        for schedule, split_num in ((ORDINARY, 1), (FASTEST, 1), (LEANEST, 1), (FASTEST, 3))
    ]
    assert peaks == sorted(set(peaks), reverse=True)


def test_predicting_draws_nothing_and_is_the_same_again():
    settings = replace(SETTINGS, schedule=FASTEST, **SELECTION)
    state = torch.get_rng_state()
    again = predict(DRAWING, task_of(DRAWING), settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert again == predicted(DRAWING, settings)


def test_weights_alone_need_no_pass_of_the_architecture():
    settings = replace(SETTINGS, schedule=LEANEST, architecture_epochs=0)
    prediction, (adapting, _) = predicted(DRAWING, settings), measured(DRAWING, settings)
    assert prediction.adapting_mib == pytest.approx(adapting.mib, rel=0.1)


# --- The ways to run a search ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(("shots", "batch_size"), [(5, 15), (5, 10), (4, 7), (1, 15), (1, 2), (3, 4), (15, 20)])
def test_options_go_from_the_largest_micro_batch_to_the_smallest(shots, batch_size):
    task, settings = TaskSize(5, shots, 1, (1, 28, 28)), replace(SETTINGS, batch_size=batch_size)
    ways = options(WIDE, task, settings, (FASTEST, LEANEST), None)
    assert [[way.schedule for way in of_schedule] for of_schedule in ways] == [
        [schedule] * len(ways[0]) for schedule in (FASTEST, LEANEST)
    ]
    assert [replace(way, schedule=LEANEST) for way in ways[0]] == ways[1]
    parts = batches(torch.arange(5 * shots), batch_size)
    sizes = []
    for way in ways[0]:
        of_way = [len(chunk) for batch in parts for chunk in chunks(batch, way.split_num, way.smallest_chunk)]
        assert min(of_way) >= min(SMALLEST_CHUNK, *map(len, parts))
        assert max(of_way) == largest_chunk(task, way)
        sizes.append(max(of_way))
        assert replace(way, schedule=ORDINARY, split_num=1, smallest_chunk=settings.smallest_chunk) == settings
    assert sizes[0] == max(map(len, parts))
    assert sizes == sorted(set(sizes), reverse=True)
    # ... and none between them is left out.
    every = {largest_chunk(task, replace(ways[0][-1], split_num=split_num)) for split_num in range(1, 100)}
    assert set(sizes) == every


def test_options_leave_a_given_split_num_alone():
    settings = replace(SETTINGS, split_num=5)
    ways = options(DRAWING, task_of(DRAWING), settings, (FASTEST, LEANEST), 5)
    assert ways == [[replace(settings, schedule=FASTEST)], [replace(settings, schedule=LEANEST)]]
    (batch,) = options(DRAWING, task_of(DRAWING), settings, (LEANEST,), 5)[0]
    assert largest_chunk(task_of(DRAWING), batch) == 3  # 7 images are three parts: with this flag pairs are allowed
    assert min(len(chunk) for chunk in chunks(torch.arange(7), batch.split_num, batch.smallest_chunk)) == 2


# --- A full task ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("half", "batch_size", "split_num", "sizes", "chunk"),
    [
        (18, 9, 1, [9, 9], 9),
        (19, 9, 1, [9, 10], 10),  # a single image joins its neighbour
        (19, 9, 3, [9, 10], 4),
        (5, 9, 1, [5], 5),  # fewer than a batch
        (20, 9, 4, [9, 9, 2], 3),
        (20, 9, 50, [9, 9, 2], 3),  # pairs, and one of three
    ],
)
def test_full_task_reads_batches_one_by_one_and_tests_micro_batches(half, batch_size, split_num, sizes, chunk):
    task, settings = FullTaskSize(3, half, (1, 20, 20)), replace(SETTINGS, batch_size=batch_size, split_num=split_num)
    assert task.batch_sizes(settings) == sizes
    assert task.images(settings) == 2 * max(sizes)
    assert largest_chunk(task, settings) == chunk
    assert task.test_images(settings) == task.test_batch(settings) == chunk


@pytest.mark.parametrize(("schedule", "selection", "split_num"), [(ORDINARY, {}, 1), (FASTEST, SELECTION, 3)])
def test_prediction_is_what_an_epoch_of_a_full_task_takes(schedule, selection, split_num):
    task = FullTaskSize(3, 15, SHAPES[SHALLOW])
    settings = replace(SETTINGS, transductive=False, schedule=schedule, split_num=split_num, **selection)
    prediction = predict(SHALLOW, task, settings)
    search = FullTaskSearch(*build_supernet(SHALLOW, task.ways, seed=1), settings, 3)

    def read(*sizes: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for size in sizes:  # made when asked for, as from files
            yield torch.rand(size, *task.shape), torch.arange(size) % task.ways

    result = search.train_epoch(0, read(7, 8), read(7, 8), 2, on_step=lambda step: None)
    assert prediction.adapting_mib == pytest.approx(result.peak_memory_mib, rel=0.1)
    with PeakMemory(torch.device("cpu"), search.search.resident()) as testing:
        search.accuracy(read(largest_chunk(task, settings)))
    assert prediction.testing_mib == pytest.approx(testing.mib, rel=0.1)
    assert prediction.testing_mib <= prediction.adapting_mib


# --- Choosing one ---------------------------------------------------------------------------------------------------


@pytest.fixture
def table(monkeypatch) -> SimpleNamespace:
    """A made-up prediction of each way: 10 MiB fastest or 2 leanest, and one for each image of a micro-batch."""
    task, settings = TaskSize(5, 8, 1, (1, 28, 28)), replace(SETTINGS, batch_size=20)
    ways = options(WIDE, task, settings, (FASTEST, LEANEST), None)
    asked = []

    def peak(way: SearchSettings) -> float:
        return largest_chunk(task, way) + (2 if way.schedule == LEANEST else 10)

    def made_up(network, task, way) -> Prediction:
        asked.append(way)
        return Prediction(peak(way), 1.0, {"activations": peak(way)}, ("", 0.0))

    monkeypatch.setattr(memory_plan, "predict", made_up)
    return SimpleNamespace(task=task, ways=ways, peak=peak, asked=asked)


def test_plan_takes_the_first_schedule_that_fits_and_its_largest_micro_batch(table):
    every = [way for alike in table.ways for way in alike]
    chosen = set()
    for budget in range(40, 4, -1):
        for part in (0.0, 0.5):
            fitting = [way for way in every if table.peak(way) <= budget + part]
            if not fitting:
                continue
            table.asked.clear()
            way, prediction = plan(DRAWING, table.task, table.ways, budget + part)
            assert way == fitting[0]
            assert prediction.peak_mib == table.peak(way)
            assert len(table.asked) == len(set(table.asked))
            assert len(table.asked) <= 5 + (len(table.ways) > 2)  # a prediction takes seconds
            chosen.add(way)
    # Every way that needs less than all of those before it.
    before = [[table.peak(earlier) for earlier in every[:place]] for place in range(len(every))]
    assert chosen == {way for way, peaks in zip(every, before, strict=True) if table.peak(way) < min(peaks, default=99)}


def test_plan_names_the_smallest_budget(table):
    least = min(table.peak(way) for of_schedule in table.ways for way in of_schedule)
    with pytest.raises(InputError, match=rf"--memory_budget 1.5 MiB .* {least:g} MiB\.$"):
        plan(DRAWING, table.task, table.ways, 1.5)
    way, _ = plan(DRAWING, table.task, table.ways, least)
    assert way == table.ways[-1][-1]


def smallest_budget(text: str) -> float:
    return float(re.search(r"the smallest that would do is ([0-9.]+) MiB", text).group(1))


@pytest.fixture
def remembered(monkeypatch) -> None:
    """No prediction is made twice in this file."""
    monkeypatch.setattr(memory_plan, "predict", lambda network, task, way: predicted(network, way))


@pytest.mark.usefixtures("remembered")
def test_plan_refuses_what_cannot_be_done_and_what_it_names_can():
    task = task_of(DRAWING)
    ways = options(DRAWING, task, replace(SETTINGS, **SELECTION), (FASTEST, LEANEST), None)
    with pytest.raises(InputError) as refusal:
        plan(DRAWING, task, ways, 0.1)
    text = str(refusal.value)
    assert "\n" not in text
    assert "--transductive" not in text  # adapting is what takes the most here
    budget = smallest_budget(text)
    way, prediction = plan(DRAWING, task, ways, budget)
    assert way.split_num > 1
    assert budget - 0.1 < prediction.peak_mib <= budget
    adapting, testing = measured(DRAWING, way)
    assert max(adapting.mib, testing.mib) <= budget
    with pytest.raises(InputError):
        plan(DRAWING, task, ways, budget - 0.1)


@pytest.mark.usefixtures("remembered")
def test_transductive_testing_that_needs_the_most_is_said_to_be_the_reason():
    task = task_of(SHALLOW)
    transductive, inductive = (  # of six images, in chunks of three at least
        options(SHALLOW, task, replace(SETTINGS, batch_size=6, transductive=value, **SELECTION), (LEANEST,), None)
        for value in (True, False)
    )
    with pytest.raises(InputError) as refusal:
        plan(SHALLOW, task, transductive, 0.1)
    text = str(refusal.value)
    assert "for testing" in text
    assert "--transductive 0" in text
    _, prediction = plan(SHALLOW, task, transductive, smallest_budget(text))
    assert prediction.testing_mib > prediction.adapting_mib
    # The remedy is one: with it what adapting takes will do.
    takes = float(re.search(r"adapting takes ([0-9.]+)", text).group(1))
    assert takes < smallest_budget(text)
    assert plan(SHALLOW, task, inductive, takes + 0.05)  # it is rounded
