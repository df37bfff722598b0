"""What a derived network costs, worked out before it is trained.

A training step is run on tensors without storage (PyTorch's FakeTensorMode), under the same meter as a real one.
"""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import torch

from models.derived_network import DerivedNetwork, DerivedSettings
from search_space.batches import micro_batches
from search_space.full_task.derived_training import DerivedTraining, TrainingSettings
from search_space.memory.size import Shape
from utils.memory import MIB, LiveTensorBytes

if TYPE_CHECKING:
    from torch._subclasses.fake_tensor import FakeTensorMode


@dataclass(frozen=True)
class Trained:
    """What is trained: a derived network on images of ``shape`` (C, H, W), in batches of ``batch`` at the most."""

    settings: DerivedSettings
    ways: int
    shape: Shape
    batch: int


def predict_training_mib(trained: Trained, training: TrainingSettings) -> float:
    """The peak of live tensor bytes in MiB of a training step."""
    sizes = [len(part) for part in micro_batches(torch.arange(trained.batch), training.schedule)][:2]
    network, storageless = _without_storage(trained.settings, trained.ways)
    with storageless:
        # Of many micro-batches two do: the first, a largest, and a largest that finds a gradient there already.
        schedule = replace(training.schedule, split_num=len(sizes))
        trainer = DerivedTraining(network, replace(training, schedule=schedule), seed=0)
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        trainer.step()
        momenta = [state["momentum_buffer"] for state in trainer.optimizer.state.values()]
        images, labels = torch.empty(trained.batch, *trained.shape), torch.empty(trained.batch, dtype=torch.long)
        with LiveTensorBytes(_resident(network), [images, labels, *momenta]) as meter:
            part = slice(sum(sizes))
            trainer.add_gradient(images[part], labels[part], training.drop_path_prob, torch.Generator())
            trainer.step()
    return meter.peak / MIB


def predict_inference_mib(trained: Trained) -> float:
    """The peak of live tensor bytes in MiB of classifying one image."""
    network, storageless = _without_storage(replace(trained.settings, auxiliary=False), trained.ways)
    network.eval()
    with storageless, torch.no_grad():
        image = torch.empty(1, *trained.shape)
        with LiveTensorBytes(_resident(network), [image]) as meter:
            network(image)
    return meter.peak / MIB


def heaviest(trained: Trained, primitives: tuple[str, ...], training: TrainingSettings) -> Trained:
    """The same with the genotype that takes the most memory to train: one candidate on every edge.

    A network that is still to be found takes no more, but for rounding.
    """

    def of_one(name: str) -> Trained:
        nodes = range(trained.settings.nodes)
        edges = tuple((name, source) for node in nodes for source in (node, node + 1))
        return replace(trained, settings=replace(trained.settings, normal=edges, reduce=edges))

    every = [of_one(name) for name in primitives if name != "none"]
    return max(every, key=lambda network: predict_training_mib(network, training))


def _without_storage(settings: DerivedSettings, ways: int) -> tuple[DerivedNetwork, "FakeTensorMode"]:
    """A network and the mode that it runs in."""
    from torch._subclasses.fake_tensor import FakeTensorMode  # 60 MiB, for a process that plans

    with torch.device("meta"):
        network = DerivedNetwork(settings, ways)
    storageless = FakeTensorMode(allow_non_fake_inputs=True)
    with storageless:
        return network.to_empty(device="cpu"), storageless


def _resident(network: DerivedNetwork) -> list[torch.Tensor]:
    return [*network.parameters(), *network.buffers()]
