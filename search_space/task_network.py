"""The network that a search leaves to classify with, once it has adapted to a task."""

import math
from typing import NamedTuple

import torch

from models.pruned_network import PrunedNetwork
from search_space.found import mean_entropy
from search_space.settings import AUTO, FOUND, NETWORKS, RELAXED
from search_space.task_search import TaskSearch

# Of the uniform distribution's entropy. A search above it has left several candidates, and what it found was not
# trained to do without them: of one shot it may still classify all support images rightly, and few others.
DECIDED = 0.1


class TaskNetwork(NamedTuple):
    """Which of FOUND and RELAXED it is, the network, and why, in a sentence; None: it was asked for."""

    which: str
    network: PrunedNetwork
    why: str | None


def task_network(search: TaskSearch, support: torch.Tensor, labels: torch.Tensor, asked: str) -> TaskNetwork:
    """A copy of the network for one image at a time: BN normalises by the support set's average statistics.

    AUTO takes the one that classifies more of the support images rightly; if both as many, the found one where the
    search is decided, else the relaxed one.

    Args:
        support: (M, C, H, W). labels: (M,). asked: one of NETWORKS.
    """
    if asked == AUTO and search.network.settings.partial_channels > 1:
        asked = RELAXED  # what passes by the candidates has no genotype
    if asked != AUTO:
        return TaskNetwork(asked, _copy(search, support, asked), None)
    networks = {which: _copy(search, support, which) for which in NETWORKS if which != AUTO}
    right = {which: _right(network, support, labels) for which, network in networks.items()}
    uniform = math.log(len(search.network.settings.primitives))
    entropy = mean_entropy(search.architecture, search.network.settings, search.normalizer) / uniform
    decided = entropy <= DECIDED
    found = right[FOUND] > right[RELAXED] or (right[FOUND] == right[RELAXED] and decided)
    which = FOUND if found else RELAXED
    why = (
        f"The {which} network classifies: of {len(labels)} support images the found one has {right[FOUND]} right, the "
        f"relaxed one {right[RELAXED]}, and the search is {'decided' if decided else 'not decided'} (entropy "
        f"{entropy:.0%} of uniform)."
    )
    return TaskNetwork(which, networks[which], why)


def _copy(search: TaskSearch, support: torch.Tensor, which: str) -> PrunedNetwork:
    mixtures = search.found_mixtures() if which == FOUND else search.mixtures()
    search.average_batch_statistics(support, mixtures)
    return PrunedNetwork(search.supernet, mixtures)


@torch.no_grad()
def _right(network: PrunedNetwork, images: torch.Tensor, labels: torch.Tensor) -> int:
    """How many images are classified rightly, one at a time."""
    network.eval()
    predictions = torch.cat([network(image) for image in images.split(1)]).argmax(1)
    return (predictions == labels).sum().item()
