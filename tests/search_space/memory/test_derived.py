"""Predicted costs against a count by hand and against real training."""

from dataclasses import replace

import pytest
import torch

from models.batch_norm import BatchNorm
from models.derived_network import DerivedNetwork, DerivedSettings
from models.macs import count_macs
from search_space.full_task.derived_training import DerivedTraining, TrainingSettings
from search_space.memory.derived import Trained, heaviest, predict_inference_mib, predict_training_mib
from search_space.primitives import FULL_TASK
from search_space.settings import FASTEST, ORDINARY, Schedule
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


@pytest.mark.parametrize("schedule", [ORDINARY, FASTEST])
@pytest.mark.parametrize(("split_num", "auxiliary"), [(1, True), (5, False)])
def test_prediction_is_what_real_training_takes(schedule, split_num, auxiliary):
    settings = replace(NETWORK, auxiliary=auxiliary)
    training = replace(TRAINING, schedule=Schedule(schedule, split_num))
    prediction = predict_training_mib(Trained(settings, WAYS, SHAPE, BATCH), training)
    assert prediction == pytest.approx(measured_training_mib(settings, training), rel=0.1)


def test_predicted_inference_is_what_one_image_takes():
    network, image = DerivedNetwork(NETWORK, WAYS).eval(), torch.rand(1, *SHAPE)
    with torch.no_grad(), PeakMemory(CPU, resident(network), [image]) as memory:
        network(image)
    prediction = predict_inference_mib(Trained(replace(NETWORK, auxiliary=True), WAYS, SHAPE, BATCH))
    assert prediction == pytest.approx(memory.mib, rel=0.1)


def test_predicting_draws_nothing():
    state = torch.get_rng_state()
    predict_training_mib(Trained(NETWORK, WAYS, SHAPE, 3), TRAINING)
    assert torch.equal(torch.get_rng_state(), state)


def test_heaviest_genotype_is_no_lighter_than_those_of_one_candidate():
    trained = Trained(NETWORK, WAYS, SHAPE, 3)
    most = predict_training_mib(heaviest(trained, FULL_TASK, TRAINING), TRAINING)
    for name in FULL_TASK[:-1]:
        edges = ((name, 0), (name, 1))
        of_one = replace(trained, settings=replace(NETWORK, normal=edges, reduce=edges))
        assert predict_training_mib(of_one, TRAINING) <= most
