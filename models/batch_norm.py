"""Batch normalisation in place, which keeps nothing but its output for the backward pass.

PyTorch's own keeps its input beside its output, and with the channels last it is several times slower on a CPU where
their number is not a multiple of 16. Here sums over pixels are taken over the rows of images, which
are long, and then over columns.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.autograd.function import once_differentiable

WHOLE = slice(None)


def pixel_rows(x: torch.Tensor) -> torch.Tensor:
    """A view of ``x``, (N, C, H, W) with the channels last, as (N * H * W, C)."""
    return x.permute(0, 2, 3, 1).view(-1, x.shape[1])


def channel_means(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W), channels last -> (C,). Over rows, then over columns: few long rows are summed fastest."""
    n, c, height, width = x.shape
    rows = x.permute(0, 2, 3, 1).view(n * height, width * c)
    return rows.sum(0).view(width, c).sum(0).div_(n * height * width)


def _centre(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres ``x``, channels last, in place; returns the mean that it had and its variance, (C,) both.

    The variance is of what is centred: the difference of two large sums would be less exact.
    """
    mean = channel_means(x)
    pixel_rows(x).sub_(mean)
    return mean, channel_means(x * x)


def normalisation_gradient(
    gradient: torch.Tensor,
    output: torch.Tensor,
    scale: torch.Tensor,
    of_batch: bool,
    mean: torch.Tensor | None = None,
    along: torch.Tensor | None = None,
) -> torch.Tensor:
    """The gradient of what was normalised: scale * (gradient - mean - output * along); by constants, scale * gradient.

    Args:
        gradient: that of ``output``; both (N, C, H, W), the latter with the channels last.
        scale: (C,), what the centred input was multiplied by.
        of_batch: the statistics were those of the batch and not constants.
        mean, along: (C,), the :func:`channel_means` of ``gradient`` and of ``gradient * output``, where they are at
            hand.
    """
    if not of_batch:
        return gradient * scale[:, None, None]
    gradient = gradient.contiguous(memory_format=torch.channels_last)
    mean = channel_means(gradient) if mean is None else mean
    along = channel_means(gradient * output) if along is None else along
    shift, slope = -mean * scale, -along * scale
    result = torch.addcmul(shift[:, None, None], gradient, scale[:, None, None])
    return result.addcmul_(output, slope[:, None, None])


class _Normalise(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, norm, part):
        scale = norm.normalise(x, part)
        ctx.mark_dirty(x)
        ctx.save_for_backward(x, scale)
        ctx.of_batch = norm.training
        return x

    @staticmethod
    @once_differentiable
    def backward(ctx, gradient):
        output, scale = ctx.saved_tensors
        return normalisation_gradient(gradient, output, scale, ctx.of_batch), None, None


class BatchNorm(nn.BatchNorm2d):
    """BN, (N, C, H, W) -> (N, C, H, W), which overwrites its input.

    So what comes before it must not need its own output for a gradient: convolutions and pools do not.
    """

    frozen = False  # see frozen_statistics

    def __init__(self, channels: int, affine: bool = False):
        super().__init__(channels, affine=affine)

    def forward(self, x: torch.Tensor, part: slice = WHOLE) -> torch.Tensor:
        """Args:
        part: the channels that ``x`` holds, if not all.
        """
        x = x.contiguous(memory_format=torch.channels_last)
        if torch.is_grad_enabled():
            x = _Normalise.apply(x, self, part)
        else:
            self.normalise(x, part)
        if not self.affine:
            return x
        return torch.addcmul(self.bias[part, None, None], x, self.weight[part, None, None])

    @torch.no_grad()
    def normalise(self, x: torch.Tensor, part: slice = WHOLE) -> torch.Tensor:
        """Normalises ``x``, channels last, in place; returns the scale (C,) that it was multiplied by once centred."""
        rows = pixel_rows(x)
        if self.training:
            mean, variance = _centre(x)
            self._update_statistics(mean, variance, len(rows))
        else:
            rows.sub_(self.running_mean[part])
            variance = self.running_var[part].clone()
        scale = variance.add_(self.eps).rsqrt_()
        rows.mul_(scale)
        return scale

    @staticmethod
    @torch.no_grad()
    def normalise_merged(norms: Sequence["BatchNorm"], x: torch.Tensor) -> None:
        """Normalises ``x``, channels last, in place: the channels of each of ``norms`` side by side."""
        rows = pixel_rows(x)
        if norms[0].training:
            mean, variance = _centre(x)
            parts = zip(norms, mean.chunk(len(norms)), variance.chunk(len(norms)), strict=True)
            for norm, mean_part, variance_part in parts:
                norm._update_statistics(mean_part, variance_part, len(rows))
        else:
            rows.sub_(torch.cat([norm.running_mean for norm in norms]))
            variance = torch.cat([norm.running_var for norm in norms])
        rows.mul_(variance.add_(norms[0].eps).rsqrt_())

    def _update_statistics(self, mean: torch.Tensor, variance: torch.Tensor, pixels: int) -> None:
        if BatchNorm.frozen:
            return
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        unbiased = pixels / max(1, pixels - 1)
        self.running_var.mul_(1 - self.momentum).add_(variance, alpha=self.momentum * unbiased)


@contextmanager
def frozen_statistics() -> Iterator[None]:
    """Within, no BN changes its running statistics: what is computed a second time counts once."""
    before, BatchNorm.frozen = BatchNorm.frozen, True
    try:
        yield
    finally:
        BatchNorm.frozen = before
