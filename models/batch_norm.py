"""Batch normalisation in place, which keeps nothing but its output for the backward pass.

PyTorch's own keeps its input beside its output, and with the channels last it is several times slower on a CPU where
their number is not a multiple of 16. Here sums over pixels are taken over the rows of images, which are long, and
then over columns.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import nn
from torch.autograd.function import once_differentiable

WHOLE = slice(None)


def pixel_rows(x: torch.Tensor) -> torch.Tensor:
    """A view of ``x``, (N, C, H, W) with the channels last, as (N * H * W, C)."""
    return x.permute(0, 2, 3, 1).view(-1, x.shape[1])


def channel_means(x: torch.Tensor) -> torch.Tensor:
    """(N, C, H, W), channels last -> (C,). Over rows, then over columns: few long rows are summed fastest.

    Each thread sums a block of rows. PyTorch's own split would be of the columns, and a thread that then writes to
    its block of ``x``, as those of :func:`_centre` do, has to wait for memory that the other has just read.
    """
    n, c, height, width = x.shape
    rows, threads = n * height, torch.get_num_threads()
    blocks = threads if x.is_cpu and rows % threads == 0 else 1
    sums = x.permute(0, 2, 3, 1).view(blocks, -1, width * c).sum(1)
    return sums.view(blocks * width, c).sum(0).div_(rows * width)


def _centre(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Centres ``x``, channels last, in place; returns the mean that it had and its variance, both (C,).

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


class Tracking:
    """Whether the BNs that share it take what they see into their running statistics."""

    def __init__(self):
        self.is_on = True

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Within, they do not: what is computed a second time counts once."""
        before, self.is_on = self.is_on, False
        try:
            yield
        finally:
            self.is_on = before


class BatchNorm(nn.BatchNorm2d):
    """BN, (N, C, H, W) -> (N, C, H, W), which overwrites its input.

    So what comes before it must not need its own output for a gradient: convolutions and pools do not.
    """

    def __init__(self, channels: int, affine: bool = False):
        super().__init__(channels, affine=affine)
        self.tracking = Tracking()  # a network's BNs share one, see share_tracking

    def forward(self, x: torch.Tensor, part: slice = WHOLE) -> torch.Tensor:
        """Args:
        part: the channels that ``x`` holds, if not all: in training only while tracking is paused.
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
        """Normalises ``x``, channels last, in place; returns (C,), what it was multiplied by once centred."""
        rows = pixel_rows(x)
        if self.training:
            mean, variance = _centre(x)
            self._track(mean, variance, len(rows))
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
            for norm, *own in zip(norms, mean.chunk(len(norms)), variance.chunk(len(norms)), strict=True):
                norm._track(*own, len(rows))
        else:
            rows.sub_(torch.cat([norm.running_mean for norm in norms]))
            variance = torch.cat([norm.running_var for norm in norms])
        rows.mul_(variance.add_(norms[0].eps).rsqrt_())

    def _track(self, mean: torch.Tensor, variance: torch.Tensor, pixels: int) -> None:
        """Takes mean and variance, (C,) both, of so many pixels into the running statistics."""
        if not self.tracking.is_on:
            return
        self.num_batches_tracked.add_(1)
        self.running_mean.lerp_(mean, self.momentum)
        unbiased = pixels / max(1, pixels - 1)
        self.running_var.mul_(1 - self.momentum).add_(variance, alpha=self.momentum * unbiased)


def norms_of(network: nn.Module) -> list[BatchNorm]:
    return [module for module in network.modules() if isinstance(module, BatchNorm)]


def share_tracking(network: nn.Module) -> Tracking:
    """Gives the BNs of a network one :class:`Tracking`, which is returned."""
    tracking = Tracking()
    for norm in norms_of(network):
        norm.tracking = tracking
    return tracking


@torch.no_grad()
def average_statistics(
    network: nn.Module, parts: Iterable[torch.Tensor], run: Callable[[torch.Tensor], torch.Tensor]
) -> None:
    """Sets the running statistics of a network's BNs to their average over ``run(part)`` of each of ``parts``.

    The network is in training mode afterwards.
    """
    norms = norms_of(network)
    for norm in norms:
        norm.reset_running_stats()
    network.train()
    for number, part in enumerate(parts, start=1):
        for norm in norms:
            norm.momentum = 1 / number  # the average over those so far
        run(part)
