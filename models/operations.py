"""The candidate operations (those of DARTS and MetaNAS). A new one is an entry of CANDIDATES: all else follows from it.

A candidate is a module of layers that end with a BN; its convolutions have no bias. What has no parameters is run once
per state, not once per edge (models/search_cell.py). Its layers say how copies on several edges are run as one
(models/merged_candidates.py), how those of several tasks are (models/batched_supernet.py), and its ``body`` how it is
taken back step by step.

ReLU is left out of every candidate's front: a cell applies it once per state. So what has parameters takes ``relu(x)``,
the pools and the stride-1 skip take ``x`` itself.
"""

import torch
from torch import nn
from torch.nn import functional as F

from models.batch_norm import BatchNorm


class Normalised(nn.Sequential):
    """Layers of which the last is a BN: the form of a candidate."""

    @property
    def norm(self) -> BatchNorm:
        return self[-1]

    def body(self, x: torch.Tensor) -> torch.Tensor:
        """What the last BN normalises."""
        *layers, _ = self
        for layer in layers:
            x = layer(x)
        return x


class MaxPool(nn.MaxPool2d):
    """The 3x3 maximum, (N, C, H, W) -> (N, C, H/stride, W/stride).

    For the gradient PyTorch's own notes where each maximum was. Without one the maximum of rows, then of columns is
    the same, and several times faster on a CPU.
    """

    def __init__(self, stride: int):
        super().__init__(3, stride, padding=1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if self.stride > 1 or torch.is_grad_enabled() or x.is_cuda:
            return super().forward(x)
        for dim in (2, 3):
            before, after = x.narrow(dim, 0, x.shape[dim] - 1), x.narrow(dim, 1, x.shape[dim] - 1)
            x = x.clone()
            for into, neighbour in ((1, before), (0, after)):
                part = x.narrow(dim, into, x.shape[dim] - 1)
                torch.maximum(part, neighbour, out=part)
        return x


class Skip(nn.Identity):
    """The stride-1 skip, the one candidate that does not end with a BN."""

    norm = None
    body = nn.Identity.forward


def offset_pixels(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Every second pixel of ``x`` (N, C, H, W), and every second one beginning a pixel further.

    Along an odd size the second begins where the first does, or it would have one row or column less.
    """
    row, column = (1 - size % 2 for size in x.shape[-2:])
    return x[:, :, ::2, ::2], x[:, :, row::2, column::2]


def _columns(convolution: nn.Conv2d, index: int, channels: int) -> torch.Tensor:
    """The weights of a 1x1 convolution that read state number ``index`` of several side by side."""
    return convolution.weight[:, index * channels : (index + 1) * channels]


class FactorizedReduce(nn.Module):
    """(N, C_in, H, W) -> (N, C, H/2, W/2): two 1x1 stride-2 convolutions side by side, of :func:`offset_pixels`, BN."""

    def __init__(self, in_channels: int, channels: int):
        super().__init__()
        self.first = nn.Conv2d(in_channels, channels // 2, 1, bias=False)
        self.second = nn.Conv2d(in_channels, channels // 2, 1, bias=False)
        self.norm = BatchNorm(channels)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.norm(self.body(x))

    def body(self, x: torch.Tensor) -> torch.Tensor:
        """What the BN normalises."""
        return self.convolve(x, 0)

    def convolve(self, x: torch.Tensor, index: int) -> torch.Tensor:
        """The part of the convolution that comes from state number ``index``, before BN; see :class:`Projection`."""
        # A stride-2 1x1 convolution is a 1x1 convolution of every second pixel. Written out, because the backward pass
        # of PyTorch 2.11's own (channels last, on a CPU, several threads) writes past the end of its buffers.
        halves = zip((self.first, self.second), offset_pixels(x), strict=True)
        return torch.cat([F.conv2d(half, _columns(conv, index, x.shape[1])) for conv, half in halves], dim=1)


class Projection(Normalised):
    """1x1 convolution and BN, the form of a cell input that keeps its size.

    It reads the states of an output one by one, S channels in parts of C: so they are never concatenated.
    """

    def __init__(self, in_channels: int, channels: int):
        super().__init__(nn.Conv2d(in_channels, channels, 1, bias=False), BatchNorm(channels))

    def convolve(self, x: torch.Tensor, index: int) -> torch.Tensor:
        """The part of the convolution that comes from ``x``, ReLU of state ``index`` (N, C, H, W), before BN."""
        return F.conv2d(x, _columns(self[0], index, x.shape[1]))


def _separable(channels: int, kernel: int, stride: int, dilation: int = 1) -> list[nn.Module]:
    """Depthwise and pointwise convolution, BN."""
    padding = dilation * (kernel - 1) // 2
    return [
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        BatchNorm(channels),
    ]


def _separable_twice(channels: int, kernel: int, stride: int) -> Normalised:
    return Normalised(*_separable(channels, kernel, stride), nn.ReLU(), *_separable(channels, kernel, 1))


def _one_by_five(channels: int, stride: int) -> Normalised:
    return Normalised(
        nn.Conv2d(channels, channels, (1, 5), stride, padding=(0, 2), bias=False),
        nn.Conv2d(channels, channels, (5, 1), padding=(2, 0), bias=False),
        BatchNorm(channels),
    )


# Each builds a module, (N, C, H, W) -> (N, C, H/stride, W/stride), from channels and stride.
CANDIDATES = {
    "max_pool_3x3": lambda channels, stride: Normalised(MaxPool(stride), BatchNorm(channels)),
    "avg_pool_3x3": lambda channels, stride: Normalised(
        nn.AvgPool2d(3, stride, padding=1, count_include_pad=False), BatchNorm(channels)
    ),
    "skip_connect": lambda channels, stride: Skip() if stride == 1 else FactorizedReduce(channels, channels),
    "conv_1x5_5x1": _one_by_five,
    "conv_3x3": lambda channels, stride: Normalised(*_separable(channels, 3, stride)),
    "sep_conv_3x3": lambda channels, stride: _separable_twice(channels, 3, stride),
    "sep_conv_5x5": lambda channels, stride: _separable_twice(channels, 5, stride),
    "dil_conv_3x3": lambda channels, stride: Normalised(*_separable(channels, 3, stride, dilation=2)),
    "dil_conv_5x5": lambda channels, stride: Normalised(*_separable(channels, 5, stride, dilation=2)),
}
OPERATIONS = frozenset({*CANDIDATES, "none"})  # "none" contributes nothing and is never run


def has_parameters(operation: nn.Module) -> bool:
    """Whether a candidate takes ``relu(x)``, and each edge needs one of its own."""
    return any(True for _ in operation.parameters())
