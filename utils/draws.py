"""Random draws that depend only on (seed, what they are for, their index), never on what ran before."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch


def derive_seed(seed: int, purpose: str, *index: int) -> int:
    """A 63-bit seed for one purpose, e.g. ``derive_seed(21, "labels", episode)``.

    It is the same on every machine and in every process, so a task is the same whatever was run, resumed or skipped
    before it.
    """
    text = "/".join([str(seed), purpose, *map(str, index)])
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def torch_generator(seed: int, purpose: str, *index: int) -> torch.Generator:
    """A CPU generator for one purpose: draws made on a CPU are the same for every device."""
    return torch.Generator().manual_seed(derive_seed(seed, purpose, *index))


def numpy_generator(seed: int, purpose: str, *index: int) -> np.random.Generator:
    """The same for numpy."""
    return np.random.default_rng(derive_seed(seed, purpose, *index))


class Draws(NamedTuple):
    """Names a piece of work, as test task 7; its draws depend on this, and on what each is for, alone."""

    seed: int
    purpose: str
    index: int

    def generator(self, draw: str) -> torch.Generator:
        """That of one of its draws."""
        return torch_generator(self.seed, f"{self.purpose}/{draw}", self.index)


def shuffled_classes(labels: Sequence[int], seed: int, purpose: str) -> list[list[int]]:
    """The indices of each class's images, in random order; classes by increasing label."""
    labels = np.asarray(labels)
    return [
        numpy_generator(seed, purpose, int(label)).permutation(np.flatnonzero(labels == label)).tolist()
        for label in np.unique(labels)
    ]
