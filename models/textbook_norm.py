"""Exchanging the BN of a network for another, such as PyTorch's own, which exporters know."""

import copy
from collections.abc import Callable

import torch
from torch import nn

from models.batch_norm import BatchNorm


def exchange_norms(module: nn.Module, build: Callable[[BatchNorm], nn.Module]) -> None:
    """Puts ``build(norm)`` in the place of every BN inside ``module``."""
    for part in list(module.modules()):
        for name, child in list(part.named_children()):
            if isinstance(child, BatchNorm):
                setattr(part, name, build(child))


def with_textbook_norm(network: nn.Module) -> nn.Module:
    """A copy whose BN is PyTorch's own and whose tensors are contiguous; in eval mode it gives the same."""
    network = copy.deepcopy(network)
    exchange_norms(network, _textbook)
    return network.to(memory_format=torch.contiguous_format)


def _textbook(norm: BatchNorm) -> nn.BatchNorm2d:
    textbook = nn.BatchNorm2d(norm.num_features, norm.eps, norm.momentum, norm.affine)
    textbook.to(norm.running_mean).load_state_dict(norm.state_dict())
    return textbook.train(norm.training)
