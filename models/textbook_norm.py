"""Exchanging the BN of a network, as for PyTorch's own, which exporters and counters know; and what is counted so."""

import copy
from collections.abc import Callable

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

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


class _MacCounter(TorchDispatchMode):
    """Counts multiply-accumulates as PyTorch's FlopCounterMode, which would import Triton: 55 MiB of a CUDA build."""

    def __init__(self):
        super().__init__()
        self.macs = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        if func is torch.ops.aten.convolution.default:
            self.macs += result.numel() * args[1][0].numel()  # an output's filter
        elif func in (torch.ops.aten.mm.default, torch.ops.aten.addmm.default):
            self.macs += result.numel() * len(args[-1])  # a column of the second factor
        return result


@torch.no_grad()
def count_macs(network: nn.Module, shape: tuple[int, int, int]) -> int:
    """Multiply-accumulates of a network's convolutions and of its head, for one image of ``shape`` (C, H, W)."""
    image = torch.zeros(1, *shape).to(next(network.parameters()))
    with _MacCounter() as counter:
        with_textbook_norm(network).eval()(image)
    return counter.macs
