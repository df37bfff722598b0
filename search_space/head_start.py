"""A head that classifies by the mean features of a task's classes, before it is adapted."""

import torch
from torch.nn import functional as F

# The logits of images that lie exactly in the direction of a class's mean: confident, and yet with a gradient.
LARGEST_LOGIT = 8.0


def centroid_head(features: torch.Tensor, labels: torch.Tensor, ways: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The weights (ways, S) and bias (ways,) of a head that classifies by the nearest class mean.

    Nearest by the cosine of what is left once the support set's mean is taken off: for one image the length of its
    features is the same for all classes, so that a linear head decides alike.

    Args:
        features: (N, S), in front of the head. labels: (N,), each class among them.
    """
    centre = features.mean(0)
    centred = features - centre
    directions = F.normalize(centred, dim=1)
    means = F.normalize(torch.stack([directions[labels == label].mean(0) for label in range(ways)]), dim=1)
    weight = means * LARGEST_LOGIT / centred.norm(dim=1).mean().clamp_min(1e-12)
    return weight, -weight @ centre
