"""What a derived network costs, worked out before it is trained, and the fastest way to train it that fits a budget.

A training step is run on tensors without storage (PyTorch's FakeTensorMode), under the same meter as a real one.
"""

import math
from bisect import bisect_left
from dataclasses import replace

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from models.derived_network import DerivedNetwork, DerivedSettings
from search_space.full_task.derived_training import DerivedTraining, TrainingSettings
from search_space.memory.plan import SMALLEST_CHUNK
from search_space.task_search import chunks
from utils.errors import BudgetError
from utils.memory import MIB, LiveTensorBytes

Shape = tuple[int, int, int]


def predict_training_mib(
    settings: DerivedSettings, ways: int, shape: Shape, batch: int, training: TrainingSettings
) -> float:
    """The peak of live tensor bytes in MiB of training on batches of up to ``batch`` images of ``shape`` (C, H, W)."""
    sizes = [len(chunk) for chunk in chunks(torch.arange(batch), training.split_num)][:2]
    network, storageless = _without_storage(settings, ways)
    with storageless:
        # Of many micro-batches two do: the first, a largest, and a largest that finds a gradient there already.
        trained = DerivedTraining(network, replace(training, split_num=len(sizes)), seed=0)
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        trained.step()
        momenta = [state["momentum_buffer"] for state in trained.optimizer.state.values()]
        images, labels = torch.empty(batch, *shape), torch.empty(batch, dtype=torch.long)
        with LiveTensorBytes(_resident(network), [images, labels, *momenta]) as meter:
            part = slice(sum(sizes))
            trained.add_gradient(images[part], labels[part], training.drop_path_prob, torch.Generator())
            trained.step()
    return meter.peak / MIB


def predict_inference_mib(settings: DerivedSettings, ways: int, shape: Shape) -> float:
    """The peak of live tensor bytes in MiB of classifying one image of ``shape`` (C, H, W)."""
    network, storageless = _without_storage(replace(settings, auxiliary=False), ways)
    network.eval()
    with storageless, torch.no_grad():
        image = torch.empty(1, *shape)
        with LiveTensorBytes(_resident(network), [image]) as meter:
            network(image)
    return meter.peak / MIB


def fit_training(
    settings: DerivedSettings,
    ways: int,
    shape: Shape,
    batch: int,
    training: TrainingSettings,
    budget_mib: float,
    split_num: int | None = None,
) -> tuple[TrainingSettings, float]:
    """The settings of the fastest way to train that fits the budget, and its predicted peak in MiB.

    Ordinary back-propagation comes before step-by-step, which ``training`` may rule out; then the largest micro-batch,
    of three images at least. To test in such micro-batches takes less.

    Args:
        split_num: leaves no choice of the micro-batch; None: any.

    Raises:
        BudgetError: none fits; the message names the smallest budget that would do.
    """
    predictions: dict[TrainingSettings, float] = {}

    def fits(way: TrainingSettings) -> bool:
        if way not in predictions:
            predictions[way] = predict_training_mib(settings, ways, shape, batch, way)
        return predictions[way] <= budget_mib

    by_chunk = {}
    for number in [split_num] if split_num else range(1, max(1, batch // SMALLEST_CHUNK) + 1):
        by_chunk.setdefault(math.ceil(batch / number), number)
    for step_by_step in (False, True) if training.step_by_step else (False,):
        # A whole batch finds no gradient there, so it may take less than a part; among parts a smaller one takes less.
        whole, *parts = (replace(training, split_num=number, step_by_step=step_by_step) for number in by_chunk.values())
        if fits(whole):
            return whole, predictions[whole]
        if parts and fits(parts[-1]):
            way = parts[bisect_left(parts, True, key=fits)]
            return way, predictions[way]
    raise BudgetError(budget_mib, "to train the derived network", min(predictions.values()))


def heaviest_genotype(
    settings: DerivedSettings,
    primitives: tuple[str, ...],
    ways: int,
    shape: Shape,
    batch: int,
    training: TrainingSettings,
) -> DerivedSettings:
    """The settings with the genotype that takes the most memory to train: one candidate on every edge.

    A network that is still to be found takes no more, but for rounding.
    """

    def of_one(name: str) -> DerivedSettings:
        edges = tuple((name, source) for node in range(settings.nodes) for source in (node, node + 1))
        return replace(settings, normal=edges, reduce=edges)

    every = [of_one(name) for name in primitives if name != "none"]
    return max(every, key=lambda way: predict_training_mib(way, ways, shape, batch, training))


def _without_storage(settings: DerivedSettings, ways: int) -> tuple[DerivedNetwork, FakeTensorMode]:
    """A network and the mode that it runs in."""
    with torch.device("meta"):
        network = DerivedNetwork(settings, ways)
    storageless = FakeTensorMode(allow_non_fake_inputs=True)
    with storageless:
        return network.to_empty(device="cpu"), storageless


def _resident(network: DerivedNetwork) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]
