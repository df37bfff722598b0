"""Candidate operations of the search cells (those of DARTS and MetaNAS).

ReLU is left out of every operation's front: a cell applies it once per state, not once per operation. So the
convolutions (and the stride-2 skip) take ``relu(x)``, the pools and the stride-1 skip take ``x`` itself.
"""

import torch
from torch import nn

# Same output on every edge that leaves a state: run once per state. "none" contributes nothing and is never run.
POOLS = ("max_pool_3x3", "avg_pool_3x3")
CONVOLUTIONS = ("conv_1x5_5x1", "conv_3x3", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
OPERATIONS = frozenset({*POOLS, *CONVOLUTIONS, "skip_connect", "none"})


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """The search cells' BN: no affine parameters, so that alpha alone says how much a candidate counts."""
    return nn.BatchNorm2d(channels, affine=False)


def depthwise_separable(channels: int, kernel: int, stride: int, dilation: int = 1) -> list[nn.Module]:
    """Depthwise and pointwise convolution, BN: (N, C, H, W) -> (N, C, H/stride, W/stride)."""
    padding = dilation * (kernel - 1) // 2
    return [
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        batch_norm(channels),
    ]


class FactorizedReduce(nn.Module):
    """(N, C_in, H, W) -> (N, C, H/2, W/2): two 1x1 stride-2 convolutions side by side, the second one pixel further.

    On an odd size the second half is not offset, or it would see one row and column less.
    """

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.first = nn.Conv2d(in_channels, channels // 2, 1, bias=False)
        self.second = nn.Conv2d(in_channels, channels // 2, 1, bias=False)
        self.norm = batch_norm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        row, column = (1 - size % 2 for size in x.shape[-2:])
        # A stride-2 1x1 convolution is a 1x1 convolution of every second pixel. Written out, because the backward pass
        # of PyTorch 2.11's own (channels last, on a CPU, several threads) writes past the end of its buffers.
        first, second = x[:, :, ::2, ::2], x[:, :, row::2, column::2]
        return self.norm(torch.cat([self.first(first), self.second(second)], dim=1))


def projection(in_channels: int, channels: int) -> nn.Sequential:
    """1x1 convolution and BN, the form of a cell input that keeps its size."""
    return nn.Sequential(nn.Conv2d(in_channels, channels, 1, bias=False), batch_norm(channels))


def pool(name: str, channels: int, stride: int) -> nn.Sequential:
    """A 3x3 pool followed by BN. The average does not count padding."""
    if name == "max_pool_3x3":
        layer = nn.MaxPool2d(3, stride, padding=1)
    else:
        layer = nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    return nn.Sequential(layer, batch_norm(channels))


def has_parameters(name: str, stride: int) -> bool:
    """Whether each edge needs an operation of its own."""
    if name == "skip_connect":
        return stride == 2
    return name in CONVOLUTIONS


def weighted_operation(name: str, channels: int, stride: int) -> nn.Module:
    """An operation with parameters, from ``relu(x)`` of shape (N, C, H, W) to (N, C, H/stride, W/stride)."""
    if name == "skip_connect":
        return FactorizedReduce(channels, channels)
    if name == "conv_1x5_5x1":
        return nn.Sequential(
            nn.Conv2d(channels, channels, (1, 5), stride, padding=(0, 2), bias=False),
            nn.Conv2d(channels, channels, (5, 1), padding=(2, 0), bias=False),
            batch_norm(channels),
        )
    family, _, size = name.rpartition("_")
    kernel = int(size.split("x")[0])
    if family == "conv":
        return nn.Sequential(*depthwise_separable(channels, kernel, stride))
    if family == "dil_conv":
        return nn.Sequential(*depthwise_separable(channels, kernel, stride, dilation=2))
    if family == "sep_conv":
        first = depthwise_separable(channels, kernel, stride)
        return nn.Sequential(*first, nn.ReLU(), *depthwise_separable(channels, kernel, 1))
    raise ValueError(f"unknown operation {name!r}")
