"""Candidate operations of the search cells (those of DARTS and MetaNAS).

ReLU is left out of every operation's front: a cell applies it once per state, not once per operation. So the
convolutions (and the stride-2 skip) take ``relu(x)``, the pools and the stride-1 skip take ``x`` itself.
"""

import torch
from torch import nn
from torch.nn import functional as F

from models.batch_norm import BatchNorm

# Same output on every edge that leaves a state: run once per state. "none" contributes nothing and is never run.
POOLS = ("max_pool_3x3", "avg_pool_3x3")
CONVOLUTIONS = ("conv_1x5_5x1", "conv_3x3", "sep_conv_3x3", "sep_conv_5x5", "dil_conv_3x3", "dil_conv_5x5")
OPERATIONS = frozenset({*POOLS, *CONVOLUTIONS, "skip_connect", "none"})


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

    PyTorch's own notes where each maximum was, for the gradient. Without one, of rows and then of columns is the same
    and several times faster on a CPU.
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


def depthwise_separable(channels: int, kernel: int, stride: int, dilation: int = 1) -> list[nn.Module]:
    """Depthwise and pointwise convolution, BN: (N, C, H, W) -> (N, C, H/stride, W/stride)."""
    padding = dilation * (kernel - 1) // 2
    return [
        nn.Conv2d(channels, channels, kernel, stride, padding, dilation, groups=channels, bias=False),
        nn.Conv2d(channels, channels, 1, bias=False),
        BatchNorm(channels),
    ]


def _columns(convolution: nn.Conv2d, index: int, channels: int) -> torch.Tensor:
    """The weights of a 1x1 convolution that read the state ``index`` of several side by side."""
    return convolution.weight[:, index * channels : (index + 1) * channels]


class FactorizedReduce(nn.Module):
    """(N, C_in, H, W) -> (N, C, H/2, W/2): two 1x1 stride-2 convolutions side by side, the second one pixel further.

    On an odd size the second half is not offset, or it would see one row and column less.
    """

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
        """The part of the convolution that comes from state ``index``, before BN; see :class:`Projection`."""
        row, column = (1 - size % 2 for size in x.shape[-2:])
        # A stride-2 1x1 convolution is a 1x1 convolution of every second pixel. Written out, because the backward pass
        # of PyTorch 2.11's own (channels last, on a CPU, several threads) writes past the end of its buffers.
        halves = ((self.first, x[:, :, ::2, ::2]), (self.second, x[:, :, row::2, column::2]))
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


def pool(name: str, channels: int, stride: int) -> Normalised:
    """A 3x3 pool followed by BN. The average does not count padding."""
    layer = MaxPool(stride) if name == "max_pool_3x3" else nn.AvgPool2d(3, stride, padding=1, count_include_pad=False)
    return Normalised(layer, BatchNorm(channels))


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
        return Normalised(
            nn.Conv2d(channels, channels, (1, 5), stride, padding=(0, 2), bias=False),
            nn.Conv2d(channels, channels, (5, 1), padding=(2, 0), bias=False),
            BatchNorm(channels),
        )
    family, _, size = name.rpartition("_")
    kernel = int(size.split("x")[0])
    if family == "conv":
        return Normalised(*depthwise_separable(channels, kernel, stride))
    if family == "dil_conv":
        return Normalised(*depthwise_separable(channels, kernel, stride, dilation=2))
    if family == "sep_conv":
        first = depthwise_separable(channels, kernel, stride)
        return Normalised(*first, nn.ReLU(), *depthwise_separable(channels, kernel, 1))
    raise ValueError(f"unknown operation {name!r}")
