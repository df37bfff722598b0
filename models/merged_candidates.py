"""Candidates of one kind on several edges that leave a state, run as one where no gradient is wanted.

On small maps a call takes longer than its sums. So the copies of a layer lie side by side in the channels: their
convolutions are one of more groups, their BNs one of more channels.
"""

import torch
from torch import nn
from torch.nn import functional as F

from models.batch_norm import BatchNorm, pixel_rows
from models.operations import Normalised

# Numbers that a state may hold. Larger ones gain little, and side by side they take memory that counts.
SMALL = 20_000


def can_merge(operations: list[nn.Module], x: torch.Tensor) -> bool:
    """Whether :func:`merged` gives what ``operations`` make of ``x``, and faster."""
    return (
        len(operations) > 1
        and x.numel() <= SMALL
        and not torch.is_grad_enabled()
        and all(isinstance(operation, Normalised) for operation in operations)
        and all(_is_mergeable(layer) for operation in operations for layer in operation)
    )


def _is_mergeable(layer: nn.Module) -> bool:
    if isinstance(layer, nn.Conv2d):
        return layer.bias is None
    return isinstance(layer, nn.ReLU) or (isinstance(layer, BatchNorm) and not layer.affine)


def merged(operations: list[Normalised], x: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """What each of ``operations``, of one kind, makes of ``x`` (N, C, H, W), channels last; equal up to rounding."""
    copies = 1  # of the channels that x holds by now
    for layers in zip(*operations, strict=True):
        if isinstance(layers[0], BatchNorm):
            BatchNorm.normalise_merged(layers, x)
        elif isinstance(layers[0], nn.ReLU):
            x = F.relu_(x)
        else:
            x = _convolve(layers, x, copies)
        copies = len(operations)
    return x.chunk(copies, dim=1)


def _convolve(layers: tuple[nn.Conv2d, ...], x: torch.Tensor, copies: int) -> torch.Tensor:
    """Convolutions side by side: (N, copies * C, H, W) -> (N, layers * C, H', W').

    copies: 1, where all ``layers`` read ``x``; or their number, where each reads a part of it.
    """
    first = layers[0]
    if copies > 1 and first.kernel_size == (1, 1):
        return _pointwise(layers, x)
    if copies == 1 and first.groups > 1:
        x, copies = x.permute(0, 2, 3, 1).repeat(1, 1, 1, len(layers)).permute(0, 3, 1, 2), len(layers)
    weight = torch.cat([layer.weight for layer in layers])
    x = F.conv2d(x, weight, None, first.stride, first.padding, first.dilation, first.groups * copies)
    return x.contiguous(memory_format=torch.channels_last)


def _pointwise(layers: tuple[nn.Conv2d, ...], x: torch.Tensor) -> torch.Tensor:
    """1x1 convolutions of a part of the channels each, as products of matrices: faster than one of as many groups."""
    n, c, height, width = x.shape
    rows = pixel_rows(x)
    output = torch.empty_like(rows)
    parts = zip(layers, rows.chunk(len(layers), dim=1), output.chunk(len(layers), dim=1), strict=True)
    for layer, part, into in parts:
        torch.mm(part, layer.weight[:, :, 0, 0].t(), out=into)
    return output.view(n, height, width, c).permute(0, 3, 1, 2)
