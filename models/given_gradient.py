"""Back-propagation of gradients that are given, as ``torch.autograd.backward(outputs, gradients)``.

PyTorch's own compares shapes by a module that imports sympy, 40 MiB, where a gradient is given; from a scalar it
starts without. So a scalar is made here that has these gradients.
"""

from collections.abc import Sequence

import torch
from torch.autograd.function import once_differentiable


class _Scalar(torch.autograd.Function):
    @staticmethod
    def forward(ctx, gradients, *outputs):
        ctx.gradients = gradients
        return outputs[0].new_zeros(())

    @staticmethod
    @once_differentiable
    def backward(ctx, _):
        return None, *ctx.gradients


def backward(
    outputs: Sequence[torch.Tensor],
    gradients: Sequence[torch.Tensor],
    inputs: Sequence[torch.Tensor] | None = None,
) -> None:
    """Adds to the ``.grad`` of ``inputs``, None: of every leaf, what ``gradients`` of ``outputs`` lead to."""
    with torch.enable_grad():
        scalar = _Scalar.apply(gradients, *outputs)
    scalar.backward(inputs=inputs)
