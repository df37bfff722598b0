"""The network that a search leaves to classify with, once it has adapted to a task."""

import torch

from models.pruned_network import PrunedNetwork
from search_space.task_search import TaskSearch


def task_network(search: TaskSearch, support: torch.Tensor) -> PrunedNetwork:
    """A copy of the relaxed network, for one image at a time: BN normalises by the average statistics of the support
    set (M, C, H, W).
    """
    mixtures = search.mixtures()
    search.average_batch_statistics(support, mixtures)
    return PrunedNetwork(search.supernet, mixtures)
