"""A node of several tasks side by side: BN and weighted sum of its candidates' outputs as one, in two passes.

T tasks lie side by side in the channels, so BN's statistics, which are of a channel, are of a task by themselves.
"""

from typing import NamedTuple

import torch

EPSILON = 1e-5  # of BN


class Term(NamedTuple):
    """What one candidate adds to a node: ``weight * (output - mean) * scale``.

    output: (N, T*C, H, W). mean, scale: (T*C,), BN's; None: it is not normalised. weight: (N or 1, T).
    """

    output: torch.Tensor
    mean: torch.Tensor | None
    scale: torch.Tensor | None
    weight: torch.Tensor


@torch.no_grad()
def statistics(x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Each channel's mean and BN's scale, both (T*C,). The variance is of what is centred: that is exact."""
    pixels = x.numel() // x.shape[1]
    mean = x.sum((0, 2, 3)).div_(pixels)
    variance = (x - mean[:, None, None]).square_().sum((0, 2, 3)).div_(pixels)
    return mean, variance.add_(EPSILON).rsqrt_()


def _pixel_sums(gradient: torch.Tensor, outputs: list[torch.Tensor]) -> list[torch.Tensor]:
    """The sums over pixels of the gradient times each output, (N, T*C)."""
    if torch.compiler.is_compiling():  # product and sum become one
        return [(gradient * output).sum((2, 3)) for output in outputs]
    product = torch.empty_like(gradient)  # one for all terms: fresh memory costs more than multiplying
    return [torch.mul(gradient, output, out=product).sum((2, 3)) for output in outputs]


def _added(total: torch.Tensor, output: torch.Tensor, factor: torch.Tensor) -> torch.Tensor:
    """``total + output * factor``, in the memory of ``total``, which is used up."""
    if torch.compiler.is_compiling():  # it takes a wrong gradient of a Function that writes in place
        return torch.addcmul(total, output, factor)
    return total.addcmul_(output, factor)


class _Mix(torch.autograd.Function):
    """The sum of K terms, BN included: its two passes over the pixels are those of adding the term up.

    K outputs o_k with statistics (mean_k, scale_k) and weights w_k, by image n and channel c, make
    ``sum_k w_k scale_k (o_k - mean_k)``. Of the node's gradient g each term takes, per image and channel, its sum over
    pixels and that of g * o_k, and from these follow the gradients of the weight and of BN.
    """

    @staticmethod
    def forward(ctx, weights, means, scales, of_batch, *outputs):
        """Args:
        weights: (K, N or 1, T). means, scales: (K, T*C). of_batch: K booleans, whether they are the batch's.
        """
        channels = means.shape[1] // weights.shape[2]
        factors = weights.repeat_interleave(channels, dim=2) * scales[:, None]
        constant = -(factors * means[:, None]).sum(0)[..., None, None]
        node = None
        for output, factor in zip(outputs, factors[..., None, None].unbind(), strict=True):
            node = torch.addcmul(constant, output, factor) if node is None else _added(node, output, factor)
        ctx.save_for_backward(weights, means, scales, *outputs)
        ctx.of_batch = of_batch
        return node

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, gradient):
        weights, means, scales, *outputs = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=torch.channels_last)
        tasks, pixels = weights.shape[2], gradient.numel() // gradient.shape[1]
        means, scales = means[:, None], scales[:, None]
        sums = gradient.sum((2, 3))
        along = torch.stack(_pixel_sums(gradient, outputs))
        along = (along - means * sums) * scales  # of the gradient times what BN makes of the output
        of_weights = None
        if ctx.needs_input_grad[0]:
            of_weights = along.unflatten(2, (tasks, -1)).sum(3).sum_to_size(weights.shape)
        wide = weights.repeat_interleave(gradient.shape[1] // tasks, dim=2)
        factors = wide * scales
        # BN takes the gradient's mean and its component along the output away.
        slope = (wide * along).sum(1, keepdim=True) * (-scales.square() / pixels)
        shift = (wide * sums).sum(1, keepdim=True) * (-scales / pixels) - slope * means
        of_outputs = []
        for number, output in enumerate(outputs):
            if not ctx.needs_input_grad[4 + number]:
                of_outputs.append(None)
                continue
            factor = factors[number, ..., None, None]
            if not ctx.of_batch[number]:
                of_outputs.append(gradient * factor)
                continue
            result = torch.addcmul(shift[number, ..., None, None], gradient, factor)
            of_outputs.append(_added(result, output, slope[number, ..., None, None]))
        return of_weights, None, None, None, *of_outputs


def mix(terms: list[Term]) -> torch.Tensor:
    """A node (N, T*C, H, W)."""
    zero = torch.zeros_like(terms[0].output[0, :, 0, 0])
    means = torch.stack([zero if term.mean is None else term.mean for term in terms])
    scales = torch.stack([zero + 1 if term.scale is None else term.scale for term in terms])
    of_batch = [term.mean is not None for term in terms]
    return _Mix.apply(torch.stack([term.weight for term in terms]), means, scales, of_batch, *(t.output for t in terms))


def with_statistics(output: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """What a candidate gave, with the channels last, and its :func:`statistics`: a :class:`Term` but for the weight."""
    output = output.contiguous(memory_format=torch.channels_last)
    return output, *statistics(output)
