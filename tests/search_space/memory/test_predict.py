"""The predicted memory against what real searches take."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache

import pytest
import torch

from models.supernet import SupernetSettings
from search_space.full_task.search import FullTaskSearch
from search_space.memory.predict import Prediction, predict
from search_space.memory.size import Size, largest_micro_batch
from search_space.primitives import FEW_SHOT
from search_space.search_network import SearchNetwork
from search_space.settings import FASTEST, LEANEST, ORDINARY, SearchSettings
from tests.helpers import build_supernet, changed, start_search
from utils.memory import KINDS, PeakMemory

DRAWING = SupernetSettings(
    in_channels=1, init_channels=4, layers=4, nodes=1, reduction_layers=(3,), primitives=FEW_SHOT
)
PHOTO = replace(DRAWING, in_channels=3, init_channels=8, layers=2, nodes=2, reduction_layers=(1,))
SHALLOW = replace(DRAWING, layers=2, reduction_layers=(1,))
SHAPES = {DRAWING: (1, 28, 28), PHOTO: (3, 20, 20), SHALLOW: (1, 28, 28)}
SETTINGS = SearchSettings(epochs=1, architecture_epochs=1, batch_size=7, w_lr=0.01, alpha_lr=0.01)
# Of enough steps that heavy choices come up, too.
SELECTION = {"sampleno": 2, "beta_sampling": True, "epochs": 4, "architecture_epochs": 4}


def task_of(network: SupernetSettings) -> Size:
    """Batches of 7 and 5 support images, and of 6 query images."""
    return Size(ways=3, train=12, queries=6, shape=SHAPES[network])


@cache
def predicted(network: SupernetSettings, settings: SearchSettings) -> Prediction:
    return predict(network, task_of(network), settings)


@cache
def measured(network: SupernetSettings, settings: SearchSettings) -> tuple[PeakMemory, PeakMemory]:
    """Of two tasks the one that takes more: so few steps may draw no heavy choice."""
    return max((measured_task(network, settings, number) for number in range(2)), key=lambda peaks: peaks[0].mib)


def measured_task(network: SupernetSettings, settings: SearchSettings, number: int) -> tuple[PeakMemory, PeakMemory]:
    """A whole task's adapting and testing, as search_task measures them."""
    task = task_of(network)
    search = start_search(*build_supernet(network, task.ways, seed=1), settings, 3, "test task", number)
    generator = torch.Generator().manual_seed(number)
    images, queries = (
        torch.randint(256, (number, *task.shape), dtype=torch.uint8, generator=generator)
        for number in (task.train, task.queries)
    )
    labels, query_labels = (torch.arange(len(part)) % task.ways for part in (images, queries))
    with PeakMemory(torch.device("cpu"), search.network.resident(), [images, labels]) as adapting:
        search.adapt(images, labels)
    with PeakMemory(torch.device("cpu"), search.network.resident(), [images, queries, query_labels]) as testing:
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
    settings = changed(SETTINGS, schedule=schedule, split_num=split_num, transductive=transductive, **selection)
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
        predicted(DRAWING, changed(SETTINGS, schedule=schedule, split_num=split_num, **SELECTION)).adapting_mib
        for schedule, split_num in ((ORDINARY, 1), (FASTEST, 1), (LEANEST, 1), (FASTEST, 3))
    ]
    assert peaks == sorted(set(peaks), reverse=True)


def test_predicting_draws_nothing_and_is_the_same_again():
    settings = changed(SETTINGS, schedule=FASTEST, **SELECTION)
    state = torch.get_rng_state()
    again = predict(DRAWING, task_of(DRAWING), settings)
    assert torch.equal(torch.get_rng_state(), state)
    assert again == predicted(DRAWING, settings)


def test_weights_alone_need_no_pass_of_the_architecture():
    settings = changed(SETTINGS, schedule=LEANEST, architecture_epochs=0)
    prediction, (adapting, _) = predicted(DRAWING, settings), measured(DRAWING, settings)
    assert prediction.adapting_mib == pytest.approx(adapting.mib, rel=0.1)


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
    task, settings = Size(3, half, None, (1, 20, 20)), changed(SETTINGS, batch_size=batch_size, split_num=split_num)
    assert task.batch_sizes(settings) == sizes
    assert task.images(settings) == 2 * max(sizes)
    assert largest_micro_batch(task, settings) == chunk
    assert task.test_images(settings) == task.test_batch(settings) == chunk


@pytest.mark.parametrize(("schedule", "selection", "split_num"), [(ORDINARY, {}, 1), (FASTEST, SELECTION, 3)])
def test_prediction_is_what_an_epoch_of_a_full_task_takes(schedule, selection, split_num):
    task = Size(3, 15, None, SHAPES[SHALLOW])
    settings = changed(SETTINGS, transductive=False, schedule=schedule, split_num=split_num, **selection)
    prediction = predict(SHALLOW, task, settings)
    search = FullTaskSearch(SearchNetwork.build(SHALLOW, task.ways, seed=1), settings, 3)

    def read(*sizes: int) -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for size in sizes:  # made when asked for, as from files
            yield torch.rand(size, *task.shape), torch.arange(size) % task.ways

    result = search.train_epoch(0, read(7, 8), read(7, 8), 2, on_step=lambda: None)
    assert prediction.adapting_mib == pytest.approx(result.peak_memory_mib, rel=0.1)
    with PeakMemory(torch.device("cpu"), search.network.resident()) as testing:
        search.accuracy(read(largest_micro_batch(task, settings)))
    assert prediction.testing_mib == pytest.approx(testing.mib, rel=0.1)
    assert prediction.testing_mib <= prediction.adapting_mib
