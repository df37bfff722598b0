"""The loss of class means, image by image."""

import torch
from torch.nn import functional as F

from search_space.deciding.class_means import SCALE, class_mean_loss


def test_loss_and_accuracy_image_by_image():
    features = torch.randn(4, 3, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    loss, accuracy = class_mean_loss(features)
    losses, losses_of_one, right = [], [], []
    for label in range(4):
        for image in range(3):
            x = features[label, image]
            means = features.mean(1).clone()
            means[label] = torch.stack([features[label, other] for other in range(3) if other != image]).mean(0)
            logits = -SCALE * ((x - means) ** 2).sum(1)
            losses.append(F.cross_entropy(logits, torch.tensor(label)))
            right.append(logits.argmax() == label)
            if image > 0:
                logits = -SCALE * ((x - features[:, 0]) ** 2).sum(1)
                losses_of_one.append(F.cross_entropy(logits, torch.tensor(label)))
    torch.testing.assert_close(loss, (torch.stack(losses).mean() + torch.stack(losses_of_one).mean()) / 2)
    torch.testing.assert_close(accuracy, torch.stack(right).float().mean())
