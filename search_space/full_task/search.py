"""The search of a full task: half of the training images for the weights, half for alpha and beta (DARTS, On-NAS)."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import repeat
from statistics import fmean, median

import torch

from search_space.batches import Batch
from search_space.full_task.epochs import Batches, cosine_decay, share_of_right, take_steps
from search_space.genotype import Genotype
from search_space.search_network import SearchNetwork
from search_space.settings import SearchSettings
from search_space.task_search import StepResult, TaskSearch
from utils.draws import Draws, torch_generator
from utils.memory import PeakMemory
from utils.results.log_rows import SearchEpochRow


@dataclass(frozen=True)
class Best:
    """The genotype of the epoch whose accuracy on the architecture's half was the highest."""

    epoch: int
    accuracy: float
    genotype: Genotype


class FullTaskSearch:
    """Searches a full task on a network, changed in place.

    An epoch depends on the state at its start, the seed and its number alone.

    Args:
        settings: of their epochs the last ``architecture_epochs`` step on alpha and beta; those before warm up.
    """

    def __init__(self, network: SearchNetwork, settings: SearchSettings, seed: int):
        self.network = network
        self.settings = settings
        self.seed = seed
        self.search = TaskSearch(network, settings, Draws(seed, "full task", 0))
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
        on_step: Callable[[], object] = lambda: None,
    ) -> SearchEpochRow:
        """One pass over both halves; each batch's accuracy is taken before it is stepped on.

        Args:
            epoch: its number, from 0.
            training, validation: batches of the weights' and of the architecture's half; of the latter none is read
                while warming up.
            steps: how many there will be in an epoch that searches.
            on_step: is called after each.

        Raises:
            InputError: a loss is not finite.
        """
        search, searching = self.search, epoch >= self.warm_up_epochs
        self._start_epoch(epoch)
        steps_left = (self.settings.epochs - max(epoch, self.warm_up_epochs)) * steps
        started = time.perf_counter()

        def step(number: int, halves: tuple) -> StepResult:
            of_weights, of_architecture = (None if batch is None else self._on_device(*batch) for batch in halves)
            result = search.step(self.optimizers, of_weights, of_architecture, steps_left - number * searching)
            search.refuse_divergence(f"the search, in epoch {epoch},")
            on_step()
            return result

        halves = zip(training, validation if searching else repeat(None), strict=False)
        memory = PeakMemory(self.network.device, self.network.resident(), self._state_tensors())
        results = take_steps(step, halves, memory)
        validated = fmean(result.validation_accuracy for result in results) if searching else None
        if searching and (self.best is None or validated > self.best.accuracy):
            self.best = Best(epoch, validated, self.network.genotype())
        return SearchEpochRow(
            epoch=epoch,
            loss=fmean(result.loss for result in results),
            accuracy=fmean(result.accuracy for result in results),
            validation_accuracy=validated,
            peak_memory_mib=memory.mib,
            peak_memory_breakdown_mib=memory.breakdown_mib,
            seconds=time.perf_counter() - started,
            seconds_per_step=median(search.step_seconds),
        )

    def _on_device(self, images: torch.Tensor, labels: torch.Tensor) -> Batch:
        device = self.network.device
        return Batch(images.to(device), labels.to(device), torch.arange(len(labels), device=device))

    def _start_epoch(self, epoch: int) -> None:
        """Cosine decay of the weights' learning rate to 0; T annealed over the epochs that search."""
        settings, search = self.settings, self.search
        for group in self.optimizers.weights.param_groups:
            group["lr"] = cosine_decay(settings.w_lr, epoch, settings.epochs)
        if epoch >= self.warm_up_epochs:
            search.normalizer = settings.normalizer.annealed(epoch - self.warm_up_epochs, settings.architecture_epochs)
        search.selector.generator = torch_generator(self.seed, "full task/selection", epoch)
        search.noise_draws = torch_generator(self.seed, "full task/noise", epoch)
        search.step_seconds.clear()

    def accuracy(self, batches: Batches) -> float:
        """The share of right answers of the relaxed, soft-pruned supernet as it is, BN by its running statistics.

        The temperature is that of the best epoch, whose weights are to be loaded.
        """
        settings, supernet = self.settings, self.network.supernet.eval()
        normalizer = settings.normalizer.annealed(self.best.epoch - self.warm_up_epochs, settings.architecture_epochs)
        with torch.no_grad():
            mixtures = self.network.architecture.mixtures(normalizer, settings.prune_threshold)
        return share_of_right(lambda images: supernet(images, mixtures), batches, self.network.device)

    def _state_tensors(self) -> list[torch.Tensor]:
        """What lives from step to step, beside the network: the optimizers' state and the history of updates."""
        states = [state for optimizer in self.optimizers for state in optimizer.state.values()]
        return [*(tensor for state in states for tensor in state.values()), *self.search.selector.history.tensors()]

    def state_dict(self) -> dict:
        """All that the next epoch starts from, in tensors and plain values."""
        best = self.best and {**vars(self.best), "genotype": self.best.genotype.as_dict()}
        return {
            "network": self.network.state_dict(),
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "history": self.search.selector.history.state_dict(),
            "best": best,
        }

    def load_state_dict(self, state: dict) -> None:
        self.network.load_state_dict(state["network"])
        for optimizer, values in zip(self.optimizers, state["optimizers"], strict=True):
            optimizer.load_state_dict(values)
        self.search.selector.history.load_state_dict(state["history"], self.network.device)
        if state["best"] is not None:
            genotype = Genotype.from_dict(state["best"]["genotype"], "the checkpoint")
            self.best = Best(state["best"]["epoch"], state["best"]["accuracy"], genotype)
