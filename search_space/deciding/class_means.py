"""The loss of a batch of classes that were never a head's: each image is held against the classes' mean features.

A task's head starts so on the device (search_space/head_start.py), so that none is trained here, and any number of
ways is served (prototypical networks, Snell et al. 2017).
"""

import torch
from torch.nn import functional as F

SCALE = 0.2  # from a squared distance to a logit


def class_mean_loss(features: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The mean of two losses, and the share of images classified rightly by the first.

    An image is held against the mean of its class's other images, and the means of all of the other classes; then,
    one-shot, against the first image of each class alone.

    Args:
        features: (classes, images a class, S), 2 images a class at least.
    """
    classes, images, _ = features.shape
    labels = torch.arange(classes, device=features.device)
    others = (features.sum(1, keepdim=True) - features) / (images - 1)
    own = (features - others).square().sum(2).flatten()
    every = labels.repeat_interleave(images)
    distances = _distances(features.flatten(0, 1), features.mean(1)).scatter(1, every[:, None], own[:, None])
    one_shot = _distances(features[:, 1:].flatten(0, 1), features[:, 0])
    loss = F.cross_entropy(-SCALE * distances, every)
    loss_of_one = F.cross_entropy(-SCALE * one_shot, labels.repeat_interleave(images - 1))
    return (loss + loss_of_one) / 2, (distances.detach().argmin(1) == every).float().mean()


def _distances(features: torch.Tensor, means: torch.Tensor) -> torch.Tensor:
    """(N, S), (classes, S) -> (N, classes), squared."""
    return features.square().sum(1, keepdim=True) - 2 * features @ means.t() + means.square().sum(1)
