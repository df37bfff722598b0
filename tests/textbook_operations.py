"""The candidates as a textbook writes them, each with a ReLU of its own, on PyTorch's layers: the one reference set."""

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

Norm = Callable[[int], nn.Module]


def plain_norm(channels: int) -> nn.BatchNorm2d:
    return nn.BatchNorm2d(channels, affine=False)


class Reduce(nn.Module):
    """ReLU - two 1x1 stride-2 convolutions, the second offset by one pixel along even sizes - BN."""

    def __init__(self, in_channels: int, channels: int, norm: Norm = plain_norm):
        super().__init__()
        self.first = nn.Conv2d(in_channels, channels // 2, 1, stride=2, bias=False)
        self.second = nn.Conv2d(in_channels, channels // 2, 1, stride=2, bias=False)
        self.norm = norm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = F.relu(x)
        row, column = (1 - size % 2 for size in x.shape[-2:])
        return self.norm(torch.cat([self.first(x), self.second(x[:, :, row:, column:])], dim=1))


def projection(in_channels: int, channels: int, norm: Norm = plain_norm) -> nn.Module:
    return nn.Sequential(nn.ReLU(), nn.Conv2d(in_channels, channels, 1, bias=False), norm(channels))


def _separable(channels: int, kernel: int, stride: int, norm: Norm, dilation: int = 1) -> list[nn.Module]:
    padding = dilation * (kernel // 2)
    return [
        nn.ReLU(),
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        norm(channels),
    ]


def _one_by_five(c: int, stride: int, norm: Norm) -> list[nn.Module]:
    rows = nn.Conv2d(c, c, (1, 5), (stride, stride), (0, 2), bias=False)
    return [nn.ReLU(), rows, nn.Conv2d(c, c, (5, 1), 1, (2, 0), bias=False), norm(c)]


# Each: (channels, stride, norm) -> layers.
OPERATIONS = {
    "max_pool_3x3": lambda c, s, norm: [nn.MaxPool2d(3, s, 1), norm(c)],
    "avg_pool_3x3": lambda c, s, norm: [nn.AvgPool2d(3, s, 1, count_include_pad=False), norm(c)],
    "skip_connect": lambda c, s, norm: [nn.Identity() if s == 1 else Reduce(c, c, norm)],
    "conv_1x5_5x1": _one_by_five,
    "conv_3x3": lambda c, s, norm: _separable(c, 3, s, norm),
    "sep_conv_3x3": lambda c, s, norm: _separable(c, 3, s, norm) + _separable(c, 3, 1, norm),
    "sep_conv_5x5": lambda c, s, norm: _separable(c, 5, s, norm) + _separable(c, 5, 1, norm),
    "dil_conv_3x3": lambda c, s, norm: _separable(c, 3, s, norm, dilation=2),
    "dil_conv_5x5": lambda c, s, norm: _separable(c, 5, s, norm, dilation=2),
}


def operation(name: str, channels: int, stride: int, norm: Norm = plain_norm) -> nn.Module:
    return nn.Sequential(*OPERATIONS[name](channels, stride, norm))
