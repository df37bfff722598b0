"""The multiply-accumulates that a network takes."""

import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode


class MacCounter(TorchDispatchMode):
    """Counts multiply-accumulates as PyTorch's FlopCounterMode, which would import Triton: 55 MiB of a CUDA build."""

    def __init__(self):
        super().__init__()
        self.macs = 0

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        return False  # PyTorch's guard against torch.compile imports it

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
    was_training = network.training
    with MacCounter() as counter:
        network.eval()(image)
    network.train(was_training)
    return counter.macs
