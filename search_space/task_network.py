"""The network that a search leaves to classify with, once it has adapted to a task."""

import torch

from models.pruned_network import PrunedNetwork
from search_space.settings import FOUND
from search_space.task_search import TaskSearch


def task_network(search: TaskSearch, support: torch.Tensor, which: str) -> PrunedNetwork:
    """A copy of the network for one image at a time: BN normalises by the support set's average statistics.

    Args:
        support: (M, C, H, W). which: one of NETWORKS.
    """
    mixtures = search.found_mixtures() if which == FOUND else search.mixtures()
    search.average_batch_statistics(support, mixtures)
    return PrunedNetwork(search.supernet, mixtures)
