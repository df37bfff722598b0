"""Batch normalisation in place, which keeps nothing but its output for the backward pass.

PyTorch's own keeps its input beside its output, and with the channels last it is several times slower on a CPU where
their number is not a multiple of 16. Here sums over pixels are taken over the rows of images, which are long, and
then over columns.
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
    """(N, C, H, W), channels last -> (C,)."""
    return _channel_means_of(x, 1)[0]


def _channel_means_of(x: torch.Tensor, chunks: int) -> torch.Tensor:
    """(N, C, H, W), channels last -> (chunks, C). Over rows, then over columns: few long rows are summed fastest.

    Each thread sums a block of rows. PyTorch's own split would be of the columns, and a thread that then writes to
    its block of ``x``, as those of :func:`_centre` do, has to wait for memory that the other has just read.
    """
    n, c, height, width = x.shape
    rows, threads = n // chunks * height, torch.get_num_threads()
    blocks = threads if x.is_cpu and rows % threads == 0 else 1
    sums = x.permute(0, 2, 3, 1).view(chunks * blocks, -1, width * c).sum(1)
    return sums.view(chunks, blocks * width, c).sum(1).div_(rows * width)


def _centre(x: torch.Tensor, chunks: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres each chunk of ``x``, channels last, in place; returns the means that they had and their variances.

    Both are (chunks, C). The variance is of what is centred: the difference of two large sums would be less exact.
    """
    mean = _channel_means_of(x, chunks)
    _chunk_rows(x, chunks).sub_(mean[:, None])
    return mean, _channel_means_of(x * x, chunks)


def _chunk_rows(x: torch.Tensor, chunks: int) -> torch.Tensor:
    """:func:`pixel_rows` of each chunk, (chunks, N * H * W / chunks, C)."""
    return pixel_rows(x).view(chunks, -1, x.shape[1])


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
    chunks = 1  # see side_by_side

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
        """Normalises ``x``, channels last, in place; returns the scale that it was multiplied by once centred.

        That is (C,), or by :func:`side_by_side` (chunks, C).
        """
        chunks = BatchNorm.chunks if self.training else 1
        rows = _chunk_rows(x, chunks)
        if self.training:
            mean, variance = _centre(x, chunks)
            self._update_statistics(mean, variance, rows.shape[1])
        else:
            rows.sub_(self.running_mean[part])
            variance = self.running_var[part][None].clone()
        scale = variance.add_(self.eps).rsqrt_()
        rows.mul_(scale[:, None])
        return scale[0] if chunks == 1 else scale

    @staticmethod
    @torch.no_grad()
    def normalise_merged(norms: Sequence["BatchNorm"], x: torch.Tensor) -> None:
        """Normalises ``x``, channels last, in place: the channels of each of ``norms`` side by side."""
        chunks = BatchNorm.chunks if norms[0].training else 1
        rows = _chunk_rows(x, chunks)
        if norms[0].training:
            mean, variance = _centre(x, chunks)
            parts = zip(norms, mean.chunk(len(norms), dim=1), variance.chunk(len(norms), dim=1), strict=True)
            for norm, mean_part, variance_part in parts:
                norm._update_statistics(mean_part, variance_part, rows.shape[1])
        else:
            rows.sub_(torch.cat([norm.running_mean for norm in norms]))
            variance = torch.cat([norm.running_var for norm in norms])[None]
        rows.mul_(variance.add_(norms[0].eps).rsqrt_()[:, None])

    def _update_statistics(self, means: torch.Tensor, variances: torch.Tensor, pixels: int) -> None:
        """Takes in each chunk's mean and variance, (chunks, C) both, one chunk after the other."""
        if BatchNorm.frozen:
            return
        self.num_batches_tracked.add_(len(means))
        unbiased = pixels / max(1, pixels - 1)
        for mean, variance in zip(means, variances, strict=True):
            self.running_mean.lerp_(mean, self.momentum)
            self.running_var.mul_(1 - self.momentum).add_(variance, alpha=self.momentum * unbiased)


@contextmanager
def frozen_statistics() -> Iterator[None]:
    """Within, no BN changes its running statistics: what is computed a second time counts once."""
    before, BatchNorm.frozen = BatchNorm.frozen, True
    try:
        yield
    finally:
        BatchNorm.frozen = before


@contextmanager
def side_by_side(chunks: int) -> Iterator[None]:
    """Within, what a training BN normalises holds so many micro-batches of one size, each of statistics of its own."""
    before, BatchNorm.chunks = BatchNorm.chunks, chunks
    try:
        yield
    finally:
        BatchNorm.chunks = before
