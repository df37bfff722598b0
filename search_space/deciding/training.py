"""Training a meta-cell that decides, before or in the place of meta-training: three phases on batches of many classes.

Free: each step runs one path, every path as likely, so that all candidates learn to work alone. Search: paths are
drawn from alpha and beta, which move by their gradient, and away from networks of more work than asked for. Decided:
alpha and beta rest; most steps train the network that they point to, some the relaxed one at a temperature of the
annealing, so that a task's search starts well too, and some another path.

The cells are tied: a weight moves by the mean of the gradients of the places that own it, which is the second fold,
with the mean, at every step. Every draw depends on (seed, what it is for, step).
"""

import math
from dataclasses import dataclass

import torch

from models.search_cell import Mixture
from models.tied_cells import TiedCells
from search_space.architecture import Architecture
from search_space.deciding.class_means import class_mean_loss
from search_space.deciding.paths import draw_paths
from search_space.deciding.work import Work
from search_space.found import genotype_mixtures
from search_space.normalizers import AnnealedNormalizer
from search_space.search_network import SearchNetwork
from utils.draws import torch_generator

FREE, SEARCH, DECIDED = "free", "search", "decided"
WARM_UP = 50  # steps over which the learning rate rises
WEIGHT_DECAY = 1e-4
ARCHITECTURE_BETAS = (0.5, 0.999)
# Micro-batches that BN may see in a step, of images of different classes; None: the whole batch. On the device they are
# small: what is only trained on large ones loses there.
MICRO_BATCHES, WHOLE = (8, 16, 32), 0.4
RELAXED, OTHER_PATH = 0.12, 0.1  # shares of the decided steps
T_MIN, T_MAX, PRUNE_THRESHOLD = 0.1, 1.0, 0.01


@dataclass(frozen=True)
class DecidingSettings:
    """free_steps, search_steps, decided_steps: the phases.

    lr: AdamW's largest, of the weights. alpha_lr: Adam's, of alpha and beta.
    work: the share of the supernet's multiply-accumulates that a path may take on average at the search's end; it
        comes down to it from ``slack`` more. work_weight: of what is beyond it, in the loss.
    gap: the least distance, after the search, of a row's largest value to the next: at T_MIN the others are pruned.
    """

    free_steps: int
    search_steps: int
    decided_steps: int
    lr: float = 2e-3
    alpha_lr: float = 0.01
    work: float = 0.19
    slack: float = 0.05
    work_weight: float = 20.0
    gap: float = 0.7

    @property
    def steps(self) -> int:
        return self.free_steps + self.search_steps + self.decided_steps

    def phase(self, step: int) -> str:
        if step < self.free_steps:
            return FREE
        return SEARCH if step < self.free_steps + self.search_steps else DECIDED

    def lr_of(self, step: int) -> float:
        """A rise, half a cosine's way down over the first two phases; then a whole one to 0."""
        before = self.free_steps + self.search_steps
        share = step / (2 * before) if step < before else (step - before) / self.decided_steps
        return self.lr * min(1.0, (step + 1) / WARM_UP) * (1 + math.cos(math.pi * share)) / 2

    def allowed_work(self, step: int) -> float:
        return self.work + self.slack * (1 - (step - self.free_steps) / self.search_steps)


class DecidingTraining:
    """Trains a network but for its head; it is changed in place.

    Args:
        shape: of an image, (C, H, W).

    Attributes:
        step: steps that are done.
    """

    def __init__(
        self,
        network: SearchNetwork,
        shape: tuple[int, int, int],
        settings: DecidingSettings,
        seed: int,
    ):
        self.network, self.settings, self.seed = network, settings, seed
        self.supernet, self.architecture = network.supernet, network.architecture
        self.work = Work(network.supernet, shape)
        self.tied = TiedCells(network.supernet)
        weights = [*self.tied.parameters.values(), *network.supernet.stem.parameters()]
        self.weights = torch.optim.AdamW(weights, settings.lr, weight_decay=WEIGHT_DECAY)
        self.of_architecture = torch.optim.Adam(
            network.architecture.parameters(), settings.alpha_lr, ARCHITECTURE_BETAS
        )
        self.step = 0

    def advance(self, images: torch.Tensor) -> tuple[float, float]:
        """One step on a batch of classes; returns its loss, and the share of images that was classified rightly.

        Args:
            images: (classes, images a class, C, H, W).
        """
        settings, draws = self.settings, torch_generator(self.seed, "deciding", self.step)
        phase = settings.phase(self.step)
        if phase == DECIDED and self.step == settings.free_steps + settings.search_steps:
            widen_gaps(self.architecture, settings.gap)
        loss, right = class_mean_loss(self._features(images, self._mixtures(phase, draws), draws))
        total = loss
        if phase == SEARCH:
            beyond = self.work.share(self.architecture) - settings.allowed_work(self.step)
            total = loss + settings.work_weight * beyond.relu()
        total.backward()
        self.tied.average_gradients()
        for group in self.weights.param_groups:
            group["lr"] = settings.lr_of(self.step)
        self.weights.step()
        self.weights.zero_grad()
        if phase == SEARCH:
            self.of_architecture.step()
        self.of_architecture.zero_grad()
        self.step += 1
        return loss.item(), right.item()

    def _mixtures(self, phase: str, draws: torch.Generator) -> dict[str, Mixture]:
        if phase == SEARCH:
            return draw_paths(self.architecture, self.work.cell_types, T_MAX, draws)
        with torch.no_grad():
            kind = torch.rand((), generator=draws).item()
            if phase == FREE or kind < OTHER_PATH:
                return draw_paths(self.architecture, self.work.cell_types, T_MAX, draws)
            if kind < OTHER_PATH + RELAXED:
                temperature = T_MIN + (T_MAX - T_MIN) * torch.rand((), generator=draws).item()
                normalizer = AnnealedNormalizer("softmax", temperature, 0.0)
                return self.architecture.mixtures(normalizer, PRUNE_THRESHOLD)
            return genotype_mixtures(self.network.genotype(), self.network.settings, like=self.supernet.head.weight)

    def _features(self, images: torch.Tensor, mixtures: dict[str, Mixture], draws: torch.Generator) -> torch.Tensor:
        """(classes, images a class, S). BN sees micro-batches; images of a class are in different ones."""
        classes, number = images.shape[:2]
        in_turn = images.transpose(0, 1).flatten(0, 1)
        size = len(in_turn)
        if torch.rand((), generator=draws).item() >= WHOLE:
            size = MICRO_BATCHES[int(torch.randint(len(MICRO_BATCHES), (), generator=draws))]
        parts = in_turn.tensor_split(max(1, len(in_turn) // size))
        features = torch.cat([self.supernet.features(part, mixtures) for part in parts])
        return features.view(number, classes, -1).transpose(0, 1)


@torch.no_grad()
def widen_gaps(architecture: Architecture, gap: float) -> None:
    """Raises the largest value of each row of alpha and beta until it is ``gap`` above the next, where it is not."""
    for row in architecture.parameters():
        if len(row) > 1:
            (first, second), (place, _) = row.topk(2)
            row[place] += (gap - (first - second)).clamp(min=0)
