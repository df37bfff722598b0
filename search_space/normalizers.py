"""Normalizers: from architecture parameters to probabilities, with temperature annealing as in MetaNAS."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import Tensor

NORMALIZERS = ("softmax", "relusoftmax", "gumbel_softmax")
ANNEAL_MODES = ("linear", "none")


@dataclass(frozen=True)
class Normalizer:
    """Settings of a normalizer; ``annealed`` gives the one of an epoch.

    t_max, t_min: the temperature T at a task's start and end.
    """

    name: str = "softmax"
    anneal_mode: str = "linear"
    t_max: float = 1.0
    t_min: float = 0.1

    def annealed(self, epoch: int, epochs: int) -> "AnnealedNormalizer":
        """At epoch s of S: T = t_max - s (t_max - t_min) / (S - 1), l = s / (S - 1); for S = 1 T = t_max, l = 0."""
        progress = epoch / (epochs - 1) if epochs > 1 else 0.0
        temperature = self.t_max
        if self.anneal_mode == "linear":
            temperature -= progress * (self.t_max - self.t_min)
        return AnnealedNormalizer(self.name, temperature, progress)


@dataclass(frozen=True)
class AnnealedNormalizer:
    """A normalizer at one moment of a task's search."""

    name: str
    temperature: float
    progress: float

    def __call__(self, logits: "Tensor", noise: "Tensor | None" = None) -> "Tensor":
        """Probabilities over the last dimension.

        Args:
            noise: Gumbel noise of the logits' shape; None: none is added.
        """
        if self.name == "relusoftmax":
            soft, positive = logits.softmax(-1), logits.relu()
            total = positive.sum(-1, keepdim=True)
            # Where no logit is positive there is nothing to divide: the softmax stays.
            share = (positive / total.where(total > 0, 1.0)).where(total > 0, soft)
            return (1 - self.progress) * soft + self.progress * share
        if noise is not None:
            logits = logits + noise
        return (logits / self.temperature).softmax(-1)
