"""The search of a full task: half of the training images for the weights, half for alpha and beta (DARTS, On-NAS)."""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from itertools import islice, repeat
from statistics import fmean

import torch

from models.supernet import Supernet
from search_space.architecture import Architecture
from search_space.genotype import Genotype, read_genotype
from search_space.task_search import Batch, SearchSettings, StepResult, TaskSearch
from utils.draws import torch_generator
from utils.errors import InputError
from utils.memory import METERED_STEPS, PeakMemory

Batches = Iterable[tuple[torch.Tensor, torch.Tensor]]


@dataclass(frozen=True)
class EpochResult:
    """An epoch: means over its steps, accuracies as fractions.

    validation_accuracy: on the architecture's half, each batch before it was stepped on; None while warming up.
    peak_memory_mib: of the first steps. peak_memory_breakdown_mib: its parts, of live tensor bytes by kind.
    """

    loss: float
    accuracy: float
    validation_accuracy: float | None
    peak_memory_mib: float
    peak_memory_breakdown_mib: dict[str, float]


@dataclass(frozen=True)
class Best:
    """The genotype of the epoch whose accuracy on the architecture's half was the highest."""

    epoch: int
    accuracy: float
    genotype: Genotype


class FullTaskSearch:
    """Searches a full task on a supernet and an architecture, both changed in place.

    An epoch depends on the state at its start, the seed and its number alone.

    Args:
        settings: of their epochs the last ``architecture_epochs`` step on alpha and beta; those before warm up.
    """

    def __init__(self, supernet: Supernet, architecture: Architecture, settings: SearchSettings, seed: int):
        self.settings = settings
        self.seed = seed
        self.search = TaskSearch(supernet, architecture, settings, seed, "full task", 0)
        self.optimizers = self.search.new_optimizers()
        self.best: Best | None = None

    @property
    def warm_up_epochs(self) -> int:
        return self.settings.epochs - self.settings.architecture_epochs

    def train_epoch(
        self,
        epoch: int,
        training: Batches,
        validation: Batches,
        steps: int,
        on_step: Callable[[StepResult], None],
    ) -> EpochResult:
        """One pass over both halves.

        Args:
            epoch: its number, from 0.
            training, validation: batches of images (N, C, H, W) and labels (N,), of the weights' and of the
                architecture's half; of the latter none is read while warming up.
            steps: how many there will be in an epoch that searches.
            on_step: is told of each.

        Raises:
            InputError: the loss is not finite.
        """
        search, searching = self.search, epoch >= self.warm_up_epochs
        self._start_epoch(epoch)
        noise_draws = torch_generator(self.seed, "full task/noise", epoch)
        steps_left = (self.settings.epochs - max(epoch, self.warm_up_epochs)) * steps
        device = search.supernet.head.weight.device

        def on_device(images: torch.Tensor, labels: torch.Tensor) -> Batch:
            return Batch(images.to(device), labels.to(device), torch.arange(len(labels), device=device))

        def step(number: int, batch, validation_batch) -> StepResult:
            result = search.step(
                self.optimizers,
                on_device(*batch),
                on_device(*validation_batch) if searching else None,
                steps_left - number * searching,
                noise_draws,
            )
            if not math.isfinite(result.loss):
                raise InputError(
                    f"the search diverged in epoch {epoch}: --w_lr must be smaller than {self.settings.w_lr:g}, "
                    f"or --alpha_lr than {self.settings.alpha_lr:g}."
                )
            on_step(result)
            return result

        pairs = zip(training, validation if searching else repeat(None), strict=False)
        taken = (step(number, *pair) for number, pair in enumerate(pairs))
        with PeakMemory(device, search.resident(), self._state_tensors()) as memory:
            results = list(islice(taken, METERED_STEPS))
        results += taken
        validated = fmean(result.validation_accuracy for result in results) if searching else None
        if searching and (self.best is None or validated > self.best.accuracy):
            self.best = Best(epoch, validated, self.genotype())
        return EpochResult(
            fmean(result.loss for result in results),
            fmean(result.accuracy for result in results),
            validated,
            memory.mib,
            memory.breakdown_mib,
        )

    def _start_epoch(self, epoch: int) -> None:
        """Cosine decay of the weights' learning rate to 0; T annealed over the epochs that search."""
        settings, search = self.settings, self.search
        for group in self.optimizers.weights.param_groups:
            group["lr"] = settings.w_lr * (1 + math.cos(math.pi * epoch / settings.epochs)) / 2
        if epoch >= self.warm_up_epochs:
            search.normalizer = settings.normalizer.annealed(epoch - self.warm_up_epochs, settings.architecture_epochs)
        search.selector.generator = torch_generator(self.seed, "full task/selection", epoch)

    def genotype(self) -> Genotype:
        """What alpha and beta point to now."""
        return read_genotype(self.search.architecture, self.search.supernet.settings.primitives)

    @torch.no_grad()
    def accuracy(self, batches: Batches) -> float:
        """The share of right answers of the relaxed, soft-pruned supernet as it is, BN by its running statistics.

        The temperature is that of the best epoch, whose weights are to be loaded.
        """
        settings, supernet = self.settings, self.search.supernet.eval()
        normalizer = settings.normalizer.annealed(self.best.epoch - self.warm_up_epochs, settings.architecture_epochs)
        mixtures = self.search.architecture.mixtures(normalizer, settings.prune_threshold)
        device = supernet.head.weight.device
        right, seen = 0, 0
        for images, labels in batches:
            right += (supernet(images.to(device), mixtures).argmax(1) == labels.to(device)).sum().item()
            seen += len(labels)
        return right / seen

    def _state_tensors(self) -> list[torch.Tensor]:
        """What lives from step to step, beside the network: the optimizers' state and the history of updates."""
        states = [state for optimizer in self.optimizers for state in optimizer.state.values()]
        return [*(tensor for state in states for tensor in state.values()), *self.search.selector.history.tensors()]

    def state_dict(self) -> dict:
        """All that the next epoch starts from, in tensors and plain values."""
        best = self.best and {**vars(self.best), "genotype": self.best.genotype.as_dict()}
        return {
            "supernet": self.search.supernet.state_dict(),
            "architecture": self.search.architecture.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "history": self.search.selector.history.state_dict(),
            "best": best,
        }

    def load_state_dict(self, state: dict) -> None:
        self.search.supernet.load_state_dict(state["supernet"])
        self.search.architecture.load_state_dict(state["architecture"])
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.search.selector.history.load_state_dict(state["history"], self.search.supernet.head.weight.device)
        if state["best"] is not None:
            genotype = Genotype.from_dict(state["best"]["genotype"], "the checkpoint")
            self.best = Best(state["best"]["epoch"], state["best"]["accuracy"], genotype)
