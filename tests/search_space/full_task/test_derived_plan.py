"""Predicted costs against a count by hand and against real training; the choice of a way that fits a budget."""

import math
import re
from dataclasses import replace
from functools import cache

import pytest
import torch

from models.batch_norm import BatchNorm
from models.derived_network import DerivedNetwork, DerivedSettings
from models.textbook_norm import count_macs
from search_space.full_task import derived_plan
from search_space.full_task.derived_plan import fit_training, predict_inference_mib, predict_training_mib
from search_space.full_task.derived_training import DerivedTraining, TrainingSettings
from utils.errors import BudgetError, InputError
from utils.memory import PeakMemory

WAYS, SHAPE, BATCH = 3, (3, 16, 16), 15
NETWORK = DerivedSettings(
    in_channels=3,
    channels=8,
    layers=2,
    reduction_layers=(1,),
    normal=(("sep_conv_3x3", 0), ("max_pool_3x3", 1)),
    reduce=(("conv_1x5_5x1", 0), ("skip_connect", 1)),
)
TRAINING = TrainingSettings(epochs=2)
CPU = torch.device("cpu")


def resident(network: DerivedNetwork) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]


def measured_training_mib(settings: DerivedSettings, training: TrainingSettings) -> float:
    network = DerivedNetwork(settings, WAYS)
    images, labels = torch.rand(BATCH, *SHAPE), torch.arange(BATCH) % WAYS
    with PeakMemory(CPU, resident(network), [images, labels]) as memory:
        DerivedTraining(network, training, seed=0).train_epoch(1, [(images, labels)] * 2)
    return memory.mib


# --- Multiply-accumulates -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("auxiliary", [False, True])
def test_macs_are_those_counted_by_hand(auxiliary):
    network = DerivedNetwork(replace(NETWORK, channels=4, auxiliary=auxiliary), WAYS).train()
    stem = 64 * 4 * 3 * 9  # 8x8 pixels, S = C = 4
    inputs = 4 * 64 * 4 * 4
    separable = 2 * 64 * (4 * 9 + 4 * 4)
    reduction = 2 * 16 * 4 * 4 * 5 + 2 * 16 * 4 * 2  # the first convolution already takes every second pixel
    assert count_macs(network, (3, 8, 8)) == stem + inputs + separable + reduction + 4 * WAYS
    assert network.training
    assert all(norm.num_batches_tracked == 0 for norm in network.modules() if isinstance(norm, BatchNorm))


# --- Memory ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("step_by_step", [False, True], ids=["ordinary", "step by step"])
@pytest.mark.parametrize(("split_num", "auxiliary"), [(1, True), (5, False)])
def test_prediction_is_what_real_training_takes(step_by_step, split_num, auxiliary):
    settings = replace(NETWORK, auxiliary=auxiliary)
    training = replace(TRAINING, step_by_step=step_by_step, split_num=split_num)
    prediction = predict_training_mib(settings, WAYS, SHAPE, BATCH, training)
    assert prediction == pytest.approx(measured_training_mib(settings, training), rel=0.1)


def test_predicted_inference_is_what_one_image_takes():
    network, image = DerivedNetwork(NETWORK, WAYS).eval(), torch.rand(1, *SHAPE)
    with torch.no_grad(), PeakMemory(CPU, resident(network), [image]) as memory:
        network(image)
    prediction = predict_inference_mib(replace(NETWORK, auxiliary=True), WAYS, SHAPE)
    assert prediction == pytest.approx(memory.mib, rel=0.1)


def test_predicting_draws_nothing():
    state = torch.get_rng_state()
    predict_training_mib(NETWORK, WAYS, SHAPE, 3, TRAINING)
    assert torch.equal(torch.get_rng_state(), state)


# --- Choosing -------------------------------------------------------------------------------------------------------


def micro_batch(batch: int, way: TrainingSettings) -> int:
    return math.ceil(batch / way.split_num)


@pytest.fixture
def table(monkeypatch) -> list[TrainingSettings]:
    """A made-up prediction: of a micro-batch 10 + b MiB, 2 + b step by step, 1 more for the gradients of a part."""
    asked = []

    def made_up(settings, ways, shape, batch, way) -> float:
        asked.append(way)
        return micro_batch(batch, way) + (2 if way.step_by_step else 10) + (way.split_num > 1)

    monkeypatch.setattr(derived_plan, "predict_training_mib", made_up)
    return asked


@pytest.mark.parametrize("batch", [20, 6, 5, 3, 2])
def test_fit_takes_ordinary_training_first_and_then_the_largest_micro_batch(table, batch):
    numbers = [number for number in range(1, batch + 1) if number == 1 or batch // number >= 3]
    sizes = sorted({math.ceil(batch / number) for number in numbers}, reverse=True)
    ways = [  # by brute force, from the best
        (step_by_step, size, size + least + (size < batch))
        for step_by_step, least in ((False, 10), (True, 2))
        for size in sizes
    ]
    training = replace(TRAINING, step_by_step=True)
    for budget in range(4, 40):
        fitting = [way for way in ways if way[2] <= budget]
        if not fitting:
            with pytest.raises(InputError, match="--memory_budget"):
                fit_training(NETWORK, WAYS, SHAPE, batch, training, budget)
            continue
        table.clear()
        way, prediction = fit_training(NETWORK, WAYS, SHAPE, batch, training, budget)
        assert (way.step_by_step, micro_batch(batch, way), prediction) == fitting[0]
        assert replace(way, split_num=1) == replace(training, step_by_step=way.step_by_step)
        assert len(table) == len(set(table)) <= 8  # a prediction takes seconds


def test_fit_names_the_smallest_budget_that_would_do(monkeypatch):
    monkeypatch.setattr(derived_plan, "predict_training_mib", cache(predict_training_mib))
    with pytest.raises(InputError, match=r"--memory_budget 0.1 MiB is too little") as refusal:
        fit_training(NETWORK, WAYS, SHAPE, BATCH, replace(TRAINING, step_by_step=True), 0.1)
    text = str(refusal.value)
    assert "\n" not in text
    budget = float(re.search(r"the smallest that would do is ([0-9.]+) MiB\.$", text).group(1))
    way, prediction = fit_training(NETWORK, WAYS, SHAPE, BATCH, replace(TRAINING, step_by_step=True), budget)
    assert (way.step_by_step, way.split_num) == (True, 5)
    assert budget - 0.1 < prediction <= budget
    assert measured_training_mib(NETWORK, way) <= budget
    with pytest.raises(InputError):
        fit_training(NETWORK, WAYS, SHAPE, BATCH, replace(TRAINING, step_by_step=True), budget - 0.1)


def test_fit_leaves_what_is_given(table):
    """A micro-batch that is asked for, and ordinary back-propagation where step by step is ruled out."""
    way, _ = fit_training(NETWORK, WAYS, SHAPE, 20, replace(TRAINING, step_by_step=True), 1000, split_num=4)
    assert (way.split_num, way.step_by_step) == (4, False)
    way, _ = fit_training(NETWORK, WAYS, SHAPE, 20, replace(TRAINING, step_by_step=True), 10, split_num=4)
    assert (way.split_num, way.step_by_step) == (4, True)  # 5 images and 2 + 1, where ordinary takes 5 + 10 + 1
    with pytest.raises(BudgetError) as refusal:
        fit_training(NETWORK, WAYS, SHAPE, 20, TRAINING, 10, split_num=4)
    assert refusal.value.least_mib == 16
